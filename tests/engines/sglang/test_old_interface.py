"""HiCache's old interface: flat pages in tensors, which HiCache copies into its pool and out of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .conftest import Start, keys_of
from .pools import HostTensor, LogicalPool, MHAPool, MLAPool


@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
def test_flat_pages_come_back_as_hicache_stored_them(start: Start, layout: str) -> None:
    pool = MHAPool(layout)
    pool.fill()
    backend = start(pool, interface_v1=None)
    keys = keys_of(3)
    pages = [pool.get_data_page(page * pool.page_size) for page in range(3)]

    assert backend.batch_set(keys, pages) is True
    assert backend.batch_exists(keys) == 3

    targets = [pool.get_dummy_flat_data_page() for _ in keys]
    loaded = backend.batch_get(keys, targets)
    assert all(each is target for each, target in zip(loaded, targets, strict=True))
    for place, page in zip((4, 5, 6), loaded, strict=True):
        pool.set_from_flat_data_page(place * pool.page_size, page)
    assert [pool.bytes_of(place) for place in (4, 5, 6)] == [pool.bytes_of(page) for page in range(3)]


def test_one_page_is_set_found_and_loaded(start: Start) -> None:
    pool = MHAPool()
    pool.fill()
    backend = start(pool)
    [key, missing] = keys_of(2)
    page = pool.get_data_page(0)

    assert backend.exists(key) is False
    assert backend.set(key, page) is True
    assert backend.exists(key) is True
    assert bytes(backend.get(key).array) == bytes(page.array), "into a new page"
    target = pool.get_dummy_flat_data_page()
    assert backend.get(key, target) is target
    assert bytes(target.array) == bytes(page.array)
    assert backend.get(missing, target) is None
    assert backend.batch_get([key, missing], [target, pool.get_dummy_flat_data_page()]) == [target, None]


def test_exists_tells_of_pages_of_either_interface(start: Start) -> None:
    pool = MHAPool()
    backend = start(pool)
    [flat, whole] = keys_of(2)
    backend.set(flat, pool.get_data_page(0))
    backend.batch_set_v1([whole], pool.indices([0]))

    assert backend.exists(flat)
    assert backend.exists(whole)
    assert backend.batch_exists([whole]) == 1
    assert backend.batch_exists([flat]) == 0, "what batch_get_v1 would not find"


def test_an_address_in_the_pools_memory_serves_as_a_value(start: Start) -> None:
    pool = MLAPool()
    pool.fill()
    backend = start(pool, mla=True)
    [key] = keys_of(1)
    [source], [size] = pool.get_page_buffer_meta(pool.indices([1]))
    [target], _ = pool.get_page_buffer_meta(pool.indices([2]))

    assert backend.set(key, None, source, size) is True
    assert backend.get(key, target, size) == target
    assert pool.bytes_of(2) == pool.bytes_of(1)
    assert backend.get(key, target + pool.array.nbytes, size) is None, "beyond the pool"
    assert backend.get(key, target) is None, "without a size"


def test_a_tensor_with_gaps_is_stored_whole_and_not_loaded_into(start: Start) -> None:
    pool = MHAPool()
    backend = start(pool)
    [key] = keys_of(1)
    array = np.arange(64, dtype=np.uint16).reshape(8, 8)

    assert backend.set(key, HostTensor(array.T)) is True
    assert backend.get(key, HostTensor(np.zeros((8, 8), np.uint16).T)) is None
    target = HostTensor(np.zeros((8, 8), np.uint16))
    assert backend.get(key, target) is target
    assert (target.array == array.T).all()


@pytest.mark.parametrize("value", [None, "text", 7, b"bytes"])
def test_something_that_is_no_page_is_not_stored(start: Start, value: Any) -> None:
    backend = start(MHAPool())
    [key] = keys_of(1)

    assert backend.set(key, value) is False
    assert backend.batch_set([key], [value]) is False
    assert backend.get(key, b"bytes") is None


def test_a_tensor_of_a_device_is_neither_stored_nor_loaded_into(start: Start) -> None:
    pool = MHAPool()
    backend = start(pool)
    page = pool.get_data_page(0)
    page.device = "cuda:0"

    assert backend.set(keys_of(1)[0], page) is False
    assert backend.get(keys_of(1)[0], page) is None


def test_without_a_pool_tensors_are_stored_and_loaded(start: Start) -> None:
    pool = MHAPool()
    backend = start()
    [key] = keys_of(1)
    page = pool.get_data_page(0)

    assert backend.set(key, page) is True
    target = pool.get_dummy_flat_data_page()
    assert backend.get(key, target) is target
    assert backend.get(key) is None, "its length is not known"
    assert backend.batch_get_v1([key], pool.indices([0])) == [False]


def test_only_one_rank_stores_where_all_have_the_same_pages(start: Start) -> None:
    pool = MLAPool()
    [key] = keys_of(1)
    page = pool.get_data_page(0)

    assert start(pool, mla=True, tp=(1, 2)).set(key, page) is False
    assert start(pool, mla=True, tp=(0, 2)).set(key, page) is True
    assert start(pool, mla=True, tp=(1, 2)).exists(key) is True


def test_flat_pages_of_a_pool_of_indices_alone_have_no_bytes(start: Start) -> None:
    backend = start(LogicalPool(), mla=True)
    empty = HostTensor(np.zeros(0, np.uint8))

    assert backend.batch_set(["a"], [empty]) is True
    assert backend.batch_get(["a"], [empty]) == [empty]
