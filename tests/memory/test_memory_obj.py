"""One chunk in memory: its bytes, its references, its views, its end."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from lmcache_connect import ChunkMetadata, LocalCPUBackend, MemoryFormat, MemoryObj
from lmcache_connect.dtypes import dtype_of
from lmcache_connect.errors import InvalidShapeError, MissingExtraError, ReleasedObjectError
from lmcache_connect.memory import release_all

PAGE: Final = 4096


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(64 * PAGE) as backend:
        yield backend
        now = backend.statistics()
        assert (now.reserved, now.live_objects, now.blocks) == (0, 0, 0)


def new(backend: LocalCPUBackend, shapes: object = (PAGE,), dtypes: object = "uint8") -> MemoryObj:
    obj = backend.allocate(shapes, dtypes)
    assert obj is not None
    return obj


# ------------------------------------------------------------------------------------------------- contents


def test_an_object_is_exactly_its_bytes(backend: LocalCPUBackend) -> None:
    with new(backend, (2, 3, 5, 7), "bfloat16") as obj:
        view = obj.byte_array
        assert (view.nbytes, view.format, view.ndim, view.readonly, view.contiguous) == (420, "B", 1, False, True)
        view[:] = bytes(range(210)) * 2
        assert bytes(obj.byte_array) == bytes(range(210)) * 2
        assert obj.get_size() == 420
        assert obj.get_physical_size() == PAGE
        del view


def test_an_object_knows_its_shapes_dtypes_and_format(backend: LocalCPUBackend) -> None:
    with new(backend, [(2, 1, 4, 8), (2, 2, 4, 16)], ["bfloat16", "fp8_e5m2"]) as obj:
        assert obj.metadata is obj.meta
        assert obj.get_shapes() == [(2, 1, 4, 8), (2, 2, 4, 16)]
        assert obj.get_dtypes() == [dtype_of("bfloat16"), dtype_of("fp8_e5m2")]
        assert (obj.get_shape(), obj.get_dtype()) == ((2, 1, 4, 8), dtype_of("bfloat16"))
        assert obj.get_memory_format() is MemoryFormat.KV_2LTD
        assert obj.get_num_tokens() == 4
        assert obj.get_size() == 2 * 4 * 8 * 2 + 2 * 2 * 4 * 16


def test_the_data_pointer_points_to_the_bytes(backend: LocalCPUBackend) -> None:
    with new(backend) as obj, new(backend) as other:
        obj.byte_array[:4] = b"here"
        assert ctypes.string_at(obj.data_ptr, 4) == b"here"
        assert obj.data_ptr % PAGE == 0
        assert abs(obj.data_ptr - other.data_ptr) >= PAGE


def test_releasing_a_view_of_the_bytes_releases_that_view_alone(backend: LocalCPUBackend) -> None:
    with new(backend) as obj:
        with obj.byte_array as view:
            view[0] = 7
        obj.byte_array.release()
        assert obj.byte_array[0] == 7


def test_a_partial_chunk_is_a_full_one_shrunk(backend: LocalCPUBackend) -> None:
    with new(backend, (2, 4, 256, 2), "uint8") as obj:
        obj.byte_array[:] = bytes(range(256)) * 16
        obj.shrink(obj.metadata.with_tokens(10))
        assert (obj.get_size(), obj.get_num_tokens(), obj.get_shape()) == (160, 10, (2, 4, 10, 2))
        assert bytes(obj.byte_array) == bytes(range(160))
        assert obj.get_physical_size() == PAGE
        with pytest.raises(InvalidShapeError, match="176 bytes do not fit an object of 160 bytes"):
            obj.shrink(obj.metadata.with_tokens(11))
        assert obj.get_num_tokens() == 10


def test_a_repr_tells_what_it_is(backend: LocalCPUBackend) -> None:
    obj = new(backend, [(2, 1, 4, 8), (3,)], ["half", "uint8"])
    obj.ref_count_up()
    assert repr(obj) == "<MemoryObj half[2, 1, 4, 8], uint8[3] UNDEFINED 131 bytes, 2 references>"
    release_all([obj, obj, None])
    assert repr(obj) == "<MemoryObj released>"
    release_all([obj])  # a released one is left alone


# ------------------------------------------------------------------------------------------- numpy and torch


@pytest.mark.parametrize("name", ["half", "float", "double", "uint8", "int8", "int16", "int32", "int64", "bool"])
def test_a_numpy_view_has_the_groups_shape_and_dtype(backend: LocalCPUBackend, name: str) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    with new(backend, (2, 3, 4), name) as obj:
        array = obj.numpy()
        assert (array.shape, array.dtype.itemsize) == ((2, 3, 4), dtype_of(name).itemsize)
        assert dtype_of(array.dtype) == dtype_of(name)
        array[:] = numpy.arange(24).reshape(2, 3, 4) % 2
        assert bytes(obj.byte_array) == array.tobytes()
        obj.byte_array[:] = bytes(obj.get_size())
        assert not array.any()
        del array


def test_each_group_has_a_numpy_view_of_its_own(backend: LocalCPUBackend) -> None:
    pytest.importorskip("numpy", reason="numpy is not installed")
    with new(backend, [(3,), (2, 2), (4,)], ["uint8", "float", "int16"]) as obj:
        obj.byte_array[:] = bytes(obj.get_size())
        for group, value in enumerate((1, 2.5, -3)):
            obj.numpy(group)[:] = value  # the second starts at byte 3: not aligned, and readable all the same
        assert obj.numpy(0).tolist() == [1, 1, 1]
        assert obj.numpy(1).tolist() == [[2.5, 2.5], [2.5, 2.5]]
        assert obj.numpy(2).tolist() == [-3] * 4
        assert bytes(obj.byte_array[:3]) == b"\1\1\1"
        for group in (3, -1):
            with pytest.raises(InvalidShapeError, match=f"invalid shape {group}: there is no such tensor group"):
                obj.numpy(group)


@pytest.mark.parametrize("name", ["bfloat16", "fp8_e4m3fn", "fp8_e5m2"])
def test_a_dtype_that_numpy_lacks_is_refused_with_what_has_it(backend: LocalCPUBackend, name: str) -> None:
    pytest.importorskip("numpy", reason="numpy is not installed")
    with (
        new(backend, (4,), name) as obj,
        pytest.raises(InvalidShapeError, match=rf"numpy has no dtype {name}; use get_tensor\(\) or .tensor"),
    ):
        obj.numpy()


@pytest.mark.parametrize(
    ("module", "use"), [("numpy", lambda obj: obj.numpy()), ("torch", lambda obj: obj.tensor)], ids=["numpy", "torch"]
)
def test_a_view_without_its_library_names_the_extra(
    backend: LocalCPUBackend, monkeypatch: pytest.MonkeyPatch, module: str, use: Callable[[MemoryObj], object]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with new(backend) as obj, pytest.raises(MissingExtraError, match=rf"lmcache-connect\[{module}\]"):
        use(obj)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["bfloat16", "half", "fp8_e4m3fn", "int64"])
def test_a_tensor_is_a_view_of_the_bytes(backend: LocalCPUBackend, name: str) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    with new(backend, [(2, 3), (4,)], [name, "uint8"]) as obj:
        obj.byte_array[:] = bytes(obj.get_size())
        assert (tuple(obj.tensor.shape), obj.tensor.dtype) == ((2, 3), getattr(torch, dtype_of(name).torch_name))
        obj.get_tensor(1).fill_(7)
        assert bytes(obj.byte_array[-4:]) == b"\7\7\7\7"
        assert obj.tensor.data_ptr() == obj.data_ptr


@pytest.mark.torch
def test_a_tensor_that_would_not_be_aligned_is_refused(backend: LocalCPUBackend) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    with (
        new(backend, [(3,), (4,)], ["uint8", "float"]) as obj,
        pytest.raises(InvalidShapeError, match="starts at byte 3"),
    ):
        obj.get_tensor(1)


# ------------------------------------------------------------------------------------------ references and pins


def test_an_object_lives_until_its_last_reference_is_released(backend: LocalCPUBackend) -> None:
    obj = new(backend)
    assert obj.get_ref_count() == 1
    obj.ref_count_up()
    obj.ref_count_up()
    assert obj.get_ref_count() == 3
    for left in (2, 1):
        obj.ref_count_down()
        assert obj.get_ref_count() == left
        assert obj.is_valid()
        assert backend.statistics().live_objects == 1
    obj.ref_count_down()
    assert (obj.is_valid(), obj.get_ref_count()) == (False, 0)
    assert backend.statistics().reserved == 0


def test_with_releases_one_reference_also_after_an_error(backend: LocalCPUBackend) -> None:
    obj = new(backend)
    obj.ref_count_up()
    with obj as same:
        assert same is obj
    assert obj.get_ref_count() == 1
    with pytest.raises(KeyError), obj:
        raise KeyError
    assert not obj.is_valid()


def test_with_leaves_an_object_alone_that_was_released_inside(backend: LocalCPUBackend) -> None:
    with new(backend) as obj:
        obj.ref_count_down()
    assert not obj.is_valid()


def test_pins_are_counted(backend: LocalCPUBackend) -> None:
    with new(backend) as obj:
        assert obj.can_evict()
        assert not obj.unpin()
        assert obj.pin()
        assert obj.pin()
        assert (obj.unpin(), obj.is_pinned, obj.can_evict()) == (True, True, False)
        assert (obj.unpin(), obj.is_pinned, obj.can_evict()) == (True, False, True)
        obj.ref_count_up()
        assert not obj.can_evict()
        assert obj.can_evict(held=2)
        obj.ref_count_down()


def test_four_threads_that_share_an_object_lose_no_reference(backend: LocalCPUBackend) -> None:
    obj = new(backend)

    def hold_and_let_go() -> None:
        for _ in range(2_000):
            obj.ref_count_up()
            obj.pin()
            obj.unpin()
            obj.ref_count_down()

    threads = [threading.Thread(target=hold_and_let_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (obj.get_ref_count(), obj.is_pinned) == (1, False)
    obj.ref_count_down()


# ------------------------------------------------------------------------------------------ the end of an object

METADATA: Final = ChunkMetadata.of((1,), "uint8")

REFUSED: Final[dict[str, Callable[[MemoryObj], object]]] = {
    "byte_array": lambda obj: obj.byte_array,
    "data_ptr": lambda obj: obj.data_ptr,
    "get_dtype": lambda obj: obj.get_dtype(),
    "get_dtypes": lambda obj: obj.get_dtypes(),
    "get_memory_format": lambda obj: obj.get_memory_format(),
    "get_num_tokens": lambda obj: obj.get_num_tokens(),
    "get_physical_size": lambda obj: obj.get_physical_size(),
    "get_shape": lambda obj: obj.get_shape(),
    "get_shapes": lambda obj: obj.get_shapes(),
    "get_size": lambda obj: obj.get_size(),
    "get_tensor": lambda obj: obj.get_tensor(0),
    "is_read_only": lambda obj: obj.is_read_only,
    "meta": lambda obj: obj.meta,
    "metadata": lambda obj: obj.metadata,
    "numpy": lambda obj: obj.numpy(),
    "pin": lambda obj: obj.pin(),
    "ref_count_down": lambda obj: obj.ref_count_down(),
    "ref_count_up": lambda obj: obj.ref_count_up(),
    "shrink": lambda obj: obj.shrink(METADATA),
    "tensor": lambda obj: obj.tensor,
    "unpin": lambda obj: obj.unpin(),
    "views_of": lambda obj: obj.views_of(0, 1),
    "__enter__": lambda obj: obj.__enter__(),
}
ANSWERED: Final = {"is_valid", "get_ref_count", "is_pinned", "can_evict", "belongs_to", "reports_to"}
"""What may be asked of a released object: whether it lives, who holds it, whose it is."""


@pytest.mark.parametrize("name", REFUSED)
def test_every_use_of_a_released_object_is_refused_by_name(backend: LocalCPUBackend, name: str) -> None:
    obj = new(backend)
    obj.ref_count_down()
    for _ in range(2):
        with pytest.raises(ReleasedObjectError, match="this memory object was released"):
            REFUSED[name](obj)
    assert (obj.is_valid(), obj.get_ref_count(), obj.is_pinned) == (False, 0, False)
    assert backend.statistics().live_objects == 0


def test_no_attribute_was_forgotten_above() -> None:
    public = {name for name in dir(MemoryObj) if not name.startswith("_")}
    assert public == (set(REFUSED) - {"__enter__"}) | ANSWERED


def test_an_object_that_is_dropped_without_release_warns_and_frees_its_memory(backend: LocalCPUBackend) -> None:
    obj = new(backend)
    assert backend.statistics().reserved == PAGE
    with pytest.warns(ResourceWarning, match="a MemoryObj of 4096 bytes was never released"):
        del obj
        gc.collect()
    now = backend.statistics()
    assert (now.leaked_objects, now.live_objects, now.reserved) == (1, 0, 0)


def test_an_object_may_die_while_another_thread_holds_the_caches_lock(backend: LocalCPUBackend) -> None:
    # The garbage collector runs inside anybody's locked section; a finalizer that waits there could wait for ever.
    obj = [new(backend)]
    ended = threading.Event()

    def collect() -> None:
        with pytest.warns(ResourceWarning, match="never released"):
            obj.clear()
        ended.set()

    with backend._lock, backend._arena._lock:
        thread = threading.Thread(target=collect)
        thread.start()
        assert ended.wait(10)
    thread.join()
    assert backend.statistics().leaked_objects == 1


# ------------------------------------------------------------------------------------- views that outlive it


def numpy_view(obj: MemoryObj) -> Any:
    pytest.importorskip("numpy", reason="numpy is not installed")
    return obj.numpy()[10:]


VIEWS: Final[dict[str, Callable[[MemoryObj], Any]]] = {
    "the view itself": lambda obj: obj.byte_array,
    "a slice": lambda obj: obj.byte_array[100:104],
    "an empty slice": lambda obj: obj.byte_array[:0],
    "a cast": lambda obj: obj.byte_array.cast("I"),
    "a read-only view": lambda obj: obj.byte_array.toreadonly(),
    "a view of a view": lambda obj: memoryview(obj.byte_array)[::2],
    "a ctypes array": lambda obj: (ctypes.c_ubyte * 8).from_buffer(obj.byte_array),
    "a numpy array": numpy_view,
}


@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_that_outlives_its_object_keeps_the_memory_from_being_reused(
    backend: LocalCPUBackend, kind: str
) -> None:
    obj = new(backend, (64 * PAGE,))
    view = VIEWS[kind](obj)
    obj.ref_count_down()
    now = backend.statistics()
    assert (now.reserved, now.live_objects, now.blocks) == (64 * PAGE, 0, 1)
    assert backend.allocate((1,), "uint8") is None
    del view
    with new(backend, (64 * PAGE,)):  # freed at once, and whole
        assert backend.statistics().free == 0


def test_a_copy_of_the_bytes_holds_nothing(backend: LocalCPUBackend) -> None:
    with new(backend) as obj:
        copy = bytes(obj.byte_array), bytearray(obj.byte_array)
    assert backend.statistics().reserved == 0
    assert len(copy[0]) == len(copy[1]) == PAGE


def test_a_forgotten_view_never_shows_another_chunks_data(backend: LocalCPUBackend) -> None:
    first = new(backend)
    first.byte_array[:] = b"1" * PAGE
    forgotten = first.byte_array
    first.ref_count_down()
    others = []
    while (obj := backend.allocate((PAGE,), "uint8")) is not None:
        obj.byte_array[:] = b"2" * PAGE
        others.append(obj)
    assert len(others) == 63
    assert bytes(forgotten) == b"1" * PAGE
    forgotten[:] = b"3" * PAGE
    assert all(bytes(obj.byte_array) == b"2" * PAGE for obj in others)
    del forgotten
    for obj in others:
        obj.ref_count_down()
