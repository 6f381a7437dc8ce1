"""Host pools as HiCache has them, on memory of numpy's: the arithmetic of `get_page_buffer_meta` is SGLang's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class HostTensor:
    """What the backend uses of a tensor of torch's, over an array."""

    device = "cpu"

    def __init__(self, array: Any) -> None:
        self.array = array

    def data_ptr(self) -> int:
        pointer: int = self.array.ctypes.data
        return pointer

    def numel(self) -> int:
        return int(self.array.size)

    def element_size(self) -> int:
        return int(self.array.itemsize)

    def is_contiguous(self) -> bool:
        return bool(self.array.flags.c_contiguous)

    def contiguous(self) -> HostTensor:
        return self if self.is_contiguous() else HostTensor(np.ascontiguousarray(self.array))


class Indices(list[int]):
    """Host indices, as a tensor of them answers."""

    def tolist(self) -> list[int]:
        return list(self)


class MHAPool:
    """Keys and values apart, as in `MHATokenToKVPoolHost`."""

    dtype = "torch.bfloat16"
    itemsize = 2
    device = "cpu"
    halves = 2

    def __init__(
        self,
        layout: str = "page_first",
        *,
        pages: int = 8,
        page_size: int = 4,
        layers: int = 3,
        heads: int = 2,
        dim: int = 8,
    ) -> None:
        self.layout = layout
        self.page_size = page_size
        self.size = pages * page_size
        self.layer_num = layers
        self._set_width(heads, dim)
        first, second = (layers, self.size) if layout == "layer_first" else (self.size, layers)
        shape = (self.halves, first, second, self._width)
        self.array = np.zeros(shape, np.uint16)
        self.kv_buffer: Any = HostTensor(self.array)

    def _set_width(self, heads: int, dim: int) -> None:
        self.head_num, self.head_dim = heads, dim
        self._width = heads * dim

    @property
    def page_nbytes(self) -> int:
        return self.halves * self.layer_num * self.page_size * self._width * self.itemsize

    def fill(self, seed: int = 0) -> None:
        """Another value in each place."""
        self.array[:] = np.random.default_rng(seed).integers(0, 1 << 16, self.array.shape, np.uint16)

    def bytes_of(self, page: int) -> bytes:
        """The page, from the array itself: not by addresses."""
        rows = slice(page * self.page_size, (page + 1) * self.page_size)
        if self.layout == "layer_first":
            return bytes(self.array[:, :, rows].tobytes())
        return bytes(self.array[:, rows].tobytes())

    def indices(self, pages: Sequence[int]) -> Indices:
        return Indices(page * self.page_size + token for page in pages for token in range(self.page_size))

    def get_page_buffer_meta(self, indices: Any) -> tuple[list[int], list[int]]:
        assert len(indices) % self.page_size == 0
        base = self.kv_buffer.data_ptr()
        row = self._width * self.itemsize
        half = self.layer_num * self.size * row
        listed = indices.tolist()
        pointers: list[int] = []
        for index in range(0, len(listed), self.page_size):
            if self.layout == "layer_first":
                for layer in range(self.layer_num):
                    start = base + listed[index] * row + layer * self.size * row
                    pointers += [start + part * half for part in range(self.halves)]
            else:
                start = base + listed[index] * self.layer_num * row
                pointers += [start + part * half for part in range(self.halves)]
        size = self.page_size * row * (1 if self.layout == "layer_first" else self.layer_num)
        return pointers, [size] * len(pointers)

    def get_dummy_flat_data_page(self) -> HostTensor:
        return HostTensor(np.zeros(self.page_nbytes // self.itemsize, np.uint16))

    def get_data_page(self, index: int, flat: bool = True) -> HostTensor:
        return HostTensor(np.frombuffer(self.bytes_of(index // self.page_size), np.uint16).copy())

    def set_from_flat_data_page(self, index: int, page: HostTensor) -> None:
        rows = slice(index, index + self.page_size)
        target = self.array[:, :, rows] if self.layout == "layer_first" else self.array[:, rows]
        target[:] = page.array.reshape(target.shape)


class MLAPool(MHAPool):
    """One latent vector for keys and values, as in `MLATokenToKVPoolHost`: no heads."""

    halves = 1

    def _set_width(self, heads: int, dim: int) -> None:
        self.kv_cache_dim = self._width = heads * dim


class LogicalPool:
    """Indices alone, as in `LogicalHostPool`."""

    layout = "layer_first"
    kv_buffer = None
    dtype = "torch.uint8"
    layer_num = 0

    def __init__(self, page_size: int = 4) -> None:
        self.page_size = page_size

    def get_page_buffer_meta(self, indices: Any) -> None:
        return None
