"""A chunk over the memory of a tensor or an array: what it shares, what it keeps alive, and what is refused."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import numpy
import pytest

from lmcache_connect import MemoryFormat, chunk_of
from lmcache_connect.dtypes import dtype_of
from lmcache_connect.errors import InvalidArgumentError, InvalidShapeError, ReleasedObjectError, UnknownDtypeError

DTYPES = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
TORCH_DTYPES = (*DTYPES, "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_chunk_of_an_array_is_its_memory_with_its_shape_and_dtype(dtype: str) -> None:
    array = numpy.arange(24).astype(dtype).reshape(2, 3, 4)
    chunk = chunk_of(array)
    assert (chunk.get_shape(), chunk.get_dtype()) == ((2, 3, 4), dtype_of(dtype))
    assert bytes(chunk.byte_array) == array.tobytes()
    assert chunk.data_ptr == array.ctypes.data
    array[1, 1, 1] = 1
    assert (chunk.numpy() == array).all()
    assert numpy.shares_memory(chunk.numpy(), array)


def test_the_format_is_read_off_the_shape_or_the_callers() -> None:
    array = numpy.zeros((2, 3, 4, 5), "f2")
    assert chunk_of(array).get_memory_format() is MemoryFormat.KV_2LTD
    assert chunk_of(array, MemoryFormat.UNDEFINED).get_memory_format() is MemoryFormat.UNDEFINED


def test_a_read_only_array_is_taken_and_stays_read_only() -> None:
    array = numpy.arange(6.0)
    array.flags.writeable = False
    chunk = chunk_of(array)
    assert chunk.is_read_only
    assert chunk.byte_array.readonly
    assert not chunk.numpy().flags.writeable
    assert chunk.data_ptr == array.ctypes.data


def test_the_chunk_and_its_views_keep_the_array_alive_and_the_array_is_freed_with_the_last() -> None:
    base = numpy.arange(1000)
    ended = weakref.ref(base)
    chunk = chunk_of(base[:500])
    view = chunk.byte_array
    del base
    gc.collect()
    assert chunk.numpy()[499] == 499
    with chunk:
        pass
    with pytest.raises(ReleasedObjectError):
        chunk.numpy()
    assert view[0] == 0
    assert ended() is not None
    del view
    gc.collect()
    assert ended() is None


def test_one_that_is_dropped_without_a_release_is_not_complained_of() -> None:
    chunk_of(numpy.zeros(10))
    gc.collect()  # warnings are errors


@pytest.mark.parametrize(
    ("values", "error", "advice"),
    [
        (numpy.zeros((4, 6))[:, ::2], InvalidArgumentError, r"not contiguous .*numpy\.ascontiguousarray"),
        (numpy.zeros((4, 6)).T, InvalidArgumentError, r"not contiguous .*numpy\.ascontiguousarray"),
        (numpy.array(1.0), InvalidArgumentError, r"reshape\(1\)"),
        (numpy.ma.masked_array([1.0], [True]), InvalidArgumentError, r"mask would be lost"),
        ([1.0, 2.0], InvalidArgumentError, r"a builtins\.list; expected a torch\.Tensor .*numpy\.ndarray"),
        (b"bytes", InvalidArgumentError, r"put_from\(\) takes any other buffer"),
        (None, InvalidArgumentError, r"expected a torch\.Tensor"),
        (numpy.zeros((2, 0)), InvalidShapeError, r"the dimension 0"),
        (numpy.zeros((1,) * 9), InvalidShapeError, r"9 dimensions; expected 1 to 8"),
        (numpy.zeros(3, "c8"), UnknownDtypeError, r"complex64"),
        (numpy.zeros(3, "u4"), UnknownDtypeError, r"uint32"),
        (numpy.zeros(3, ">f4"), UnknownDtypeError, r">f4"),
        (numpy.zeros(3, "O"), UnknownDtypeError, r"'O'"),
    ],
)
def test_what_cannot_be_sent_as_it_lies_is_refused_with_what_to_do(
    values: Any, error: type[Exception], advice: str
) -> None:
    with pytest.raises(error, match=advice):
        chunk_of(values)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_the_chunk_of_a_tensor_is_its_memory_with_its_shape_and_dtype(dtype: str) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, dtype))
    chunk = chunk_of(tensor)
    assert (chunk.get_shape(), chunk.get_dtype().torch_name) == ((2, 3, 4), dtype)
    assert chunk.data_ptr == tensor.data_ptr() == chunk.tensor.data_ptr()
    assert chunk.tensor.dtype == tensor.dtype
    assert torch.equal(chunk.tensor.float(), tensor.float())


@pytest.mark.torch
def test_a_tensor_that_asks_for_gradients_and_a_slice_of_one_are_taken() -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.nn.Parameter(torch.rand(4, 3))
    chunk = chunk_of(tensor[2:])
    assert torch.equal(chunk.tensor, tensor[2:].detach())
    assert chunk.data_ptr == tensor.data_ptr() + 2 * 3 * 4


@pytest.mark.torch
def test_the_memory_of_a_tensor_cannot_be_freed_under_its_chunk() -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.full((1000,), 7.0)
    chunk = chunk_of(tensor)
    with pytest.raises(RuntimeError, match="not resizable"):
        tensor.untyped_storage().resize_(0)
    del tensor
    gc.collect()
    assert float(chunk.numpy().sum()) == 7000.0


@pytest.mark.torch
@pytest.mark.parametrize(
    ("make", "error", "advice"),
    [
        (lambda torch: torch.zeros(4, 6).T, InvalidArgumentError, r"not contiguous .*tensor\.contiguous\(\)"),
        (
            lambda torch: torch.zeros(4, 6, device="meta"),
            InvalidArgumentError,
            r"the device meta; pass tensor\.cpu\(\)",
        ),
        (
            lambda torch: torch.zeros(4, 6).to_sparse(),
            InvalidArgumentError,
            r"torch\.sparse_coo; pass tensor\.to_dense",
        ),
        (lambda torch: torch.zeros(3, dtype=torch.cfloat).conj().imag, InvalidArgumentError, r"not contiguous"),
        (lambda torch: torch._neg_view(torch.zeros(3)), InvalidArgumentError, r"resolve_neg\(\)"),
        (lambda torch: torch.tensor(1.0), InvalidArgumentError, r"reshape\(1\)"),
        (lambda torch: torch.zeros(0), InvalidShapeError, r"the dimension 0"),
        (lambda torch: torch.zeros(3, dtype=torch.cfloat), UnknownDtypeError, r"torch\.complex64"),
    ],
)
def test_a_tensor_that_cannot_be_sent_as_it_lies_is_refused_with_what_to_do(
    make: Any, error: type[Exception], advice: str
) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(error, match=advice):
        chunk_of(make(torch))


@pytest.mark.torch
def test_a_tensor_without_numpy_says_what_to_install() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    program = (
        "import sys; sys.modules['numpy'] = None\n"
        "import torch\n"
        "from lmcache_connect import chunk_of\n"
        "try: chunk_of(torch.zeros(3))\n"
        "except ImportError as missing: print(missing)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert "pip install 'lmcache-connect[torch]'" in done.stdout, done.stderr


@pytest.mark.torch
def test_a_transposed_row_is_sent_as_it_lies() -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    row = torch.arange(4, dtype=torch.float32).reshape(1, 4)
    assert bytes(chunk_of(row.t()).byte_array) == row.numpy().tobytes()
    assert chunk_of(row.t()).get_shape() == (4, 1)
