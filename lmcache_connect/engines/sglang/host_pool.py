"""`HostPool`: where the pages of one of HiCache's host pools lie, checked against the pool's own memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any, Final

from ...errors import InvalidArgumentError
from ...memory import memory_at

_BUFFERS: Final = (
    "kv_buffer",
    "k_buffer",
    "v_buffer",
    "index_k_buffer",
    "index_k_scale_buffer",
    "_host_page_buffer_view",
)
"""The attributes in which SGLang's host pools hold their memory, beside what `get_hybrid_pool_buffer` returns."""

Span = tuple[int, int]
"""The first address of some memory, and the one behind its last byte."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where some pages lie, for one call.

    Attributes:
        buffers: for each page its regions, in the pool's order.
        owners: what must be held until the call has ended, so that the memory stays.
    """

    buffers: list[list[memoryview]]
    owners: tuple[Any, ...]


class HostPool:
    """One of HiCache's host pools. It holds no memory: each call asks the pool again.

    Attributes:
        theirs: SGLang's object.
        name: the name that HiCache gives to the pool, such as `kv` or `mamba`.
        page_size: the host indices of a page.
        is_logical: whether the pool gives out indices alone, and its pages have no bytes.
    """

    def __init__(self, theirs: Any, name: str) -> None:
        self.theirs: Final = theirs
        self.name: Final = name
        self.page_size: Final = int(getattr(theirs, "logical_page_size", None) or getattr(theirs, "page_size", 1) or 1)
        # Not by its memory alone: a pool may keep that where we do not know it.
        self.is_logical: Final = not getattr(theirs, "layer_num", 0) and not any(True for _ in _tensors_of(theirs))

    def pages(self, host_indices: Any, count: int) -> Places:
        """The memory of `count` pages at these host indices.

        Raises:
            InvalidArgumentError: the number of indices is not that of so many pages, or the pool names memory that is
                not its own.
        """
        if host_indices is None or len(host_indices) != count * self.page_size:
            found = "none" if host_indices is None else len(host_indices)
            raise InvalidArgumentError(
                "host_indices", f"{found} for {count} pages of the pool {self.name}; expected {self.page_size} a page"
            )
        if not count:
            return Places([], ())
        owners = tuple(_tensors_of(self.theirs))
        spans = sorted(span_of(tensor) for tensor in owners)
        found = self.theirs.get_page_buffer_meta(host_indices)
        if found is None:
            raise InvalidArgumentError("host_indices", f"the pool {self.name} has no memory of its own")
        addresses, sizes = found
        if isinstance(sizes, int):
            sizes = [sizes] * len(addresses)
        if not addresses or len(addresses) != len(sizes) or len(addresses) % count:
            raise InvalidArgumentError(
                "host_indices",
                f"the pool {self.name} names {len(addresses)} addresses and {len(sizes)} sizes for {count} pages",
            )
        if any(isinstance(size, bool) or not isinstance(size, int) or size <= 0 for size in sizes):
            raise InvalidArgumentError(
                "host_indices", f"the pool {self.name} names a size that is not a number above 0"
            )
        self._check(addresses, sizes, spans)
        regions = list(map(memory_at, addresses, sizes))
        each = len(regions) // count
        return Places([regions[start : start + each] for start in range(0, len(regions), each)], owners)

    def region(self, address: int, nbytes: int) -> memoryview:
        """A view of memory of the pool's. The caller holds the pool for as long as it uses the view.

        Raises:
            InvalidArgumentError: it is not the pool's.
        """
        self._check([address], [nbytes], sorted(span_of(tensor) for tensor in _tensors_of(self.theirs)))
        return memory_at(address, nbytes)

    def _check(self, addresses: Sequence[int], sizes: Sequence[int], spans: Sequence[Span]) -> None:
        """Raises InvalidArgumentError where memory is not the pool's. One that keeps it elsewhere is believed."""
        if not spans:
            return
        first, last = min(addresses), max(map(add, addresses, sizes))
        if any(start <= first and last <= end for start, end in spans):
            return  # all of it lies in one tensor, as nearly always: thousands of regions are not looked at one by one
        for address, nbytes in zip(addresses, sizes, strict=True):
            at = bisect_right(spans, (address, _HIGHEST)) - 1
            if nbytes < 0 or at < 0 or address + nbytes > spans[at][1]:
                raise InvalidArgumentError(
                    "address", f"{nbytes} bytes at {address:#x} are not within the memory of the pool {self.name}"
                )

    def __repr__(self) -> str:
        return f"<HostPool {self.name}, {type(self.theirs).__name__}>"


_HIGHEST: Final = 1 << 64


def span_of(tensor: Any) -> Span:
    """Where a tensor's memory lies.

    Raises:
        InvalidArgumentError: it is not the memory of the CPU.
    """
    if (device := str(getattr(tensor, "device", "cpu"))).partition(":")[0] != "cpu":
        raise InvalidArgumentError("tensor", f"it is on the device {device}; expected one in the memory of the CPU")
    if tensor.is_contiguous():
        start = tensor.data_ptr()
        return start, start + tensor.numel() * tensor.element_size()
    storage = tensor.untyped_storage()
    start = storage.data_ptr()
    return start, start + storage.nbytes()


def _tensors_of(pool: Any) -> Iterator[Any]:
    """The tensors that hold a pool's pages, as far as the pool tells."""
    found = [getattr(pool, name, None) for name in _BUFFERS]
    if (theirs := getattr(pool, "get_hybrid_pool_buffer", None)) is not None:
        found.extend(theirs())
    for value in found:
        for tensor in value if isinstance(value, list | tuple) else (value,):
            if tensor is not None and hasattr(tensor, "data_ptr"):
                yield tensor
