"""Pages of HiCache's host pools in a real store, and back: the same bytes, at the same places."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from .conftest import Start
from .pools import MHAPool, MLAPool

LAYOUTS = [
    pytest.param(MHAPool, "page_first", id="page-first"),
    pytest.param(MHAPool, "page_first_direct", id="page-first-direct"),
    pytest.param(MHAPool, "layer_first", id="layer-first"),
    pytest.param(MLAPool, "page_first", id="mla-page-first"),
    pytest.param(MLAPool, "layer_first", id="mla-layer-first"),
]


def keys_of(count: int) -> list[str]:
    """As many keys as no other test has."""
    return [uuid4().hex for _ in range(count)]


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS)
def test_a_batch_of_128_pages_comes_back_byte_by_byte_into_other_places(start: Start, kind: Any, layout: str) -> None:
    pool, other = kind(layout, pages=128), kind(layout, pages=130)
    mla = kind is MLAPool
    pool.fill()
    keys = keys_of(128)
    places = list(range(129, 1, -1))

    assert start(pool, mla=mla).batch_set_v1(keys, pool.indices(range(128))) == [True] * 128
    assert start(other, mla=mla).batch_get_v1(keys, other.indices(places)) == [True] * 128

    assert [other.bytes_of(place) for place in places] == [pool.bytes_of(page) for page in range(128)]
    assert not any(other.bytes_of(0) + other.bytes_of(1))
