"""`Regions`: one chunk's memory that a caller owns, checked once, and the bytes of it in any cut."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy
import pytest

from lmcache_connect import Regions, memory_at, regions_of
from lmcache_connect.errors import InvalidArgumentError, ReleasedObjectError
from lmcache_connect.lease import Lease, under
from lmcache_connect.memory import check_apart


def three() -> tuple[list[bytearray], Regions]:
    """Regions of 4, 0, 3 and 5 bytes that hold the numbers from 0."""
    parts = [bytearray(range(4)), bytearray(), bytearray(range(4, 7)), bytearray(range(7, 12))]
    return parts, regions_of(parts, writable=True)


@pytest.mark.parametrize(
    "buffer",
    [
        bytearray(8),
        memoryview(bytearray(8)),
        mmap.mmap(-1, 8),
        (ctypes.c_uint16 * 4)(),
        numpy.zeros((2, 2), numpy.float16),
        numpy.zeros(8, numpy.uint8),
        numpy.zeros((), numpy.float64),
    ],
    ids=lambda buffer: type(buffer).__name__,
)
def test_anything_with_the_buffer_protocol_serves_alone_and_as_a_region(buffer: Any) -> None:
    for regions in (regions_of(buffer, writable=True), regions_of([buffer], writable=True)):
        assert regions.nbytes == 8
        regions.write(0, b"abcdefgh")
        assert memoryview(buffer).tobytes() == b"abcdefgh"


def test_torch_tensors_serve_through_a_view_and_the_message_says_which() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros((2, 4), dtype=torch.bfloat16)
    regions_of(tensor.view(torch.uint8).numpy(), writable=True).write(0, b"\1" * 16)
    assert tensor.view(torch.uint8).tolist() == [[1] * 8] * 2


@pytest.mark.parametrize("start", range(13))
def test_the_bytes_from_anywhere_to_anywhere_lie_in_the_regions_that_have_them(start: int) -> None:
    _, regions = three()
    for end in range(start, 13):
        views = regions.views_of(start, end)
        assert b"".join(views) == bytes(range(start, end))
        assert all(views)
        target = bytearray(end - start)
        regions.read(start, memoryview(target))
        assert target == bytes(range(start, end))


def test_what_is_written_goes_into_the_callers_buffers() -> None:
    parts, regions = three()
    regions.write(3, b"xyz??")
    assert parts == [bytearray(b"\0\1\2x"), bytearray(), bytearray(b"yz?"), bytearray(b"?\x08\x09\x0a\x0b")]


def test_regions_of_no_bytes_are_left_out() -> None:
    _, regions = three()
    assert [len(view) for view in regions.views] == [4, 3, 5]
    assert regions.nbytes == len(regions) == 12


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (4, 3), (0, 13), (13, 13)])
def test_bytes_outside_of_the_regions_are_refused(start: int, end: int) -> None:
    with pytest.raises(InvalidArgumentError, match="of 12"):
        three()[1].views_of(start, end)


def test_a_field_may_have_the_name_of_a_format() -> None:
    assert regions_of(numpy.zeros(2, [("O", "i4")]), writable=True).nbytes == 8


def test_released_memory_is_refused_by_name() -> None:
    view = memoryview(bytearray(4))
    view.release()
    for buffers in (view, [bytearray(2), view]):
        with pytest.raises(InvalidArgumentError, match="is a memoryview that was released"):
            regions_of(buffers, writable=True)


def test_regions_are_taken_as_they_are() -> None:
    _, regions = three()
    assert regions_of(regions, writable=True) is regions
    read_only = regions_of(b"abc", writable=False)
    assert regions_of(read_only, writable=False) is read_only
    with pytest.raises(InvalidArgumentError, match="read-only"):
        regions_of(read_only, writable=True)


@pytest.mark.parametrize(
    ("buffers", "message"),
    [
        (b"abc", "the buffer: it is read-only"),
        ([bytearray(2), memoryview(b"abc")], "region 1: it is read-only"),
        (numpy.zeros((4, 4))[:, 1:], r"not contiguous \(shape \(4, 3\), strides \(32, 8\)\)"),
        (numpy.zeros((4, 4)).T, "not contiguous"),
        ([bytearray(2), memoryview(bytearray(8))[::2]], "region 1 is not contiguous"),
        (memoryview(bytearray(8))[::-1], "not contiguous"),
        ("text", "the buffer is a str"),
        (None, "the buffer is a NoneType"),
        (7, "the buffer is a int"),
        ([bytearray(2), None], "region 1 is a NoneType"),
        ([[bytearray(2)]], "region 0 is a list"),
        (bytearray(), "0 bytes in all"),
        ([], "0 bytes in all"),
        ([bytearray(), bytearray()], "0 bytes in all"),
        (numpy.zeros((0, 3)), "0 bytes in all"),
        (numpy.array([{}, None]), "the buffer holds Python objects .*whose bytes are addresses"),
        ([bytearray(2), numpy.zeros(2, [("a", "i4"), ("b", "O")])], "region 1 holds Python objects"),
        ((ctypes.py_object * 2)(), "holds Python objects"),
    ],
)
def test_what_cannot_be_received_into_is_refused_by_name(buffers: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        regions_of(buffers, writable=True)


class _Tensor:
    def data_ptr(self) -> int:
        return 0


def test_the_message_for_a_tensor_says_how_it_is_passed() -> None:
    with pytest.raises(InvalidArgumentError, match=r"tensor.view\(torch.uint8\).numpy\(\)"):
        regions_of(_Tensor(), writable=True)


def test_memory_of_an_absurd_length_is_refused() -> None:
    view = memory_at(4096, 1 << 40)  # nothing of it is touched
    with pytest.raises(InvalidArgumentError, match="a chunk has 1 to"):
        regions_of([view, bytearray(1)], writable=True)


def test_a_pointer_and_a_length_name_memory() -> None:
    array = numpy.arange(10, dtype=numpy.uint8)
    view = memory_at(array.ctypes.data + 2, 3)
    assert not view.readonly
    view[:] = b"\xff\xfe\xfd"
    assert array.tolist() == [0, 1, 0xFF, 0xFE, 0xFD, 5, 6, 7, 8, 9]
    assert len(memory_at(array.ctypes.data, 0)) == 0
    assert regions_of([memory_at(numpy.int64(array.ctypes.data), 4), array[4:]], writable=True).nbytes == 10


@pytest.mark.parametrize(
    ("address", "nbytes", "argument"),
    [
        (0, 4, "address"),
        (-4096, 4, "address"),
        ((1 << 64) - 2, 4, "address"),
        (1 << 70, 4, "address"),
        (4096, -1, "nbytes"),
        (4096, (1 << 40) + 1, "nbytes"),
        ("4096", 4, "address"),
        (4096, 4.0, "address"),
    ],
)
def test_an_address_or_a_length_that_cannot_be_is_refused(address: Any, nbytes: Any, argument: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        memory_at(address, nbytes)
    assert caught.value.argument == argument


def test_regions_that_share_a_byte_are_refused() -> None:
    array = bytearray(16)
    view = memoryview(array)
    check_apart([regions_of([view[:4], view[8:]], writable=True), regions_of(view[4:8], writable=True)])
    with pytest.raises(InvalidArgumentError, match="share 1 bytes"):
        check_apart([regions_of(view[4:9], writable=True), regions_of([view[:4], view[8:]], writable=True)])
    with pytest.raises(InvalidArgumentError, match="share 16 bytes"):
        check_apart([regions_of([view, view], writable=True)])


def test_a_buffer_can_be_resized_when_its_regions_were_released() -> None:
    array = bytearray(8)
    regions = regions_of(array, writable=True)
    with pytest.raises(BufferError):
        array.append(1)
    regions.release()
    regions.release()
    array.append(1)
    for use in (lambda: regions.views, lambda: regions.views_of(0, 1), lambda: regions_of(regions, writable=True)):
        with pytest.raises(ReleasedObjectError):
            use()
    assert "released" in repr(regions)


def test_a_view_that_was_given_outlives_the_release() -> None:
    regions = regions_of(bytearray(8), writable=True)
    (view,) = regions.views
    regions.release()
    view[0] = 1


def test_regions_refuse_their_bytes_under_a_lease_that_was_recalled() -> None:
    array = bytearray(8)
    regions = regions_of(array, writable=True)
    lease = Lease()
    with under(lease):
        regions.write(0, b"a")
        lease.recall()
        with pytest.raises(ReleasedObjectError):
            regions.write(1, b"b")
    assert array == b"a" + bytes(7)
