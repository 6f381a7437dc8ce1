"""Element types: by LMCache's names, and as torch and numpy spell them."""

from __future__ import annotations

from typing import Any, Final

import pytest

from lmcache_connect import DType
from lmcache_connect.dtypes import dtype_from_code, dtype_of, known_dtypes
from lmcache_connect.errors import UnknownDtypeError

# LMCache's name, torch's name, bytes, and the code in a stored record: these never change.
TABLE: Final = (
    ("half", "float16", 2, 1),
    ("bfloat16", "bfloat16", 2, 2),
    ("float", "float32", 4, 3),
    ("double", "float64", 8, 4),
    ("uint8", "uint8", 1, 5),
    ("int8", "int8", 1, 6),
    ("int16", "int16", 2, 7),
    ("int32", "int32", 4, 8),
    ("int64", "int64", 8, 9),
    ("bool", "bool", 1, 10),
    ("fp8_e4m3fn", "float8_e4m3fn", 1, 11),
    ("fp8_e4m3fnuz", "float8_e4m3fnuz", 1, 12),
    ("fp8_e5m2", "float8_e5m2", 1, 13),
    ("fp8_e5m2fnuz", "float8_e5m2fnuz", 1, 14),
)


@pytest.mark.parametrize(("name", "torch_name", "itemsize", "code"), TABLE)
def test_a_dtype_is_known_by_lmcaches_name_and_by_torchs(name: str, torch_name: str, itemsize: int, code: int) -> None:
    dtype = dtype_of(name)
    assert (dtype.name, dtype.torch_name, dtype.itemsize, dtype.code) == (name, torch_name, itemsize, code)
    assert dtype_of(torch_name) is dtype_of(f"torch.{torch_name}") is dtype_of(dtype) is dtype
    assert dtype_from_code(code) is dtype
    assert str(dtype) == name


def test_these_are_all_dtypes_there_are() -> None:
    assert known_dtypes() == tuple(name for name, *_ in TABLE)
    assert [code for code in range(256) if dtype_from_code(code) is not None] == [code for *_, code in TABLE]


@pytest.mark.parametrize(
    "value", ["", "float13", "torch.torch.half", "Half", " half", "fp8", "auto", None, 5, 2.5, b"half", [], ("half",)]
)
def test_anything_else_is_refused_with_the_known_names(value: object) -> None:
    with pytest.raises(UnknownDtypeError) as caught:
        dtype_of(value)
    assert repr(value) in str(caught.value)
    assert "half, bfloat16, float" in str(caught.value)
    assert caught.value.dtype is value
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("kind", [float, int, bool, str, object])
def test_a_type_of_pythons_is_refused_because_its_size_is_not_the_names(kind: type) -> None:
    # Python's float is a double everywhere else, while "float" is LMCache's name for four bytes.
    with pytest.raises(UnknownDtypeError):
        dtype_of(kind)


def test_a_numpy_dtype_is_known_in_every_spelling_of_numpys() -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    for name, torch_name, itemsize, _ in TABLE:
        if dtype_of(name).numpy_name is None:
            continue
        dtype = numpy.dtype(torch_name)
        assert dtype.itemsize == itemsize
        for spelling in (dtype, dtype.type, numpy.zeros(1, dtype).dtype):
            assert dtype_of(spelling).name == name


@pytest.mark.parametrize("spelling", ["complex64", "uint32", "S4", "datetime64[s]", "float16,int8"])
def test_a_numpy_dtype_that_no_kv_cache_has_is_refused(spelling: str) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    with pytest.raises(UnknownDtypeError):
        dtype_of(numpy.dtype(spelling))


def test_a_numpy_dtype_of_the_other_byte_order_is_refused() -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    swapped = numpy.dtype("float32").newbyteorder()
    with pytest.raises(UnknownDtypeError, match="f4"):
        dtype_of(swapped)


@pytest.mark.torch
@pytest.mark.parametrize(("name", "torch_name", "itemsize", "code"), TABLE)
def test_a_torch_dtype_is_known_where_torch_is_installed(name: str, torch_name: str, itemsize: int, code: int) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    dtype = dtype_of(getattr(torch, torch_name))
    assert (dtype.name, dtype.code) == (name, code)
    assert torch.zeros(1, dtype=getattr(torch, torch_name)).element_size() == itemsize


@pytest.mark.torch
def test_a_torch_dtype_that_no_kv_cache_has_is_refused() -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(UnknownDtypeError, match="complex64"):
        dtype_of(torch.complex64)


def test_a_dtype_is_a_value() -> None:
    same = DType("half", 2, 1, "float16", "float16")
    assert same == dtype_of("half")
    assert hash(same) == hash(dtype_of("half"))
    with pytest.raises(AttributeError):
        same.name = "float"  # type: ignore[misc]
