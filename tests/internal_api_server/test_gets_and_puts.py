"""Every operation that moves chunks counts as a get or a put, wherever those are added up."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from lmcache_connect.contract import AnnouncedConnector, AnnouncedStatistics
from lmcache_connect.internal_api_server import status_page
from lmcache_connect.internal_api_server.controller.key_stats_api import KeyCounts
from lmcache_connect.managed import GETS, PUTS
from lmcache_connect.managed import operations as table
from lmcache_connect.oversight.fleet import _Counted


def connector(name: str) -> AnnouncedConnector:
    """A connector that has moved 7 bytes, in operations of that name."""
    moved = AnnouncedStatistics(calls=1, keys=2, hits=1, misses=1, bytes=7)
    return AnnouncedConnector(name="x-1", store="x://", kind="X", breaker="closed", statistics={name: moved})


def test_each_operation_that_moves_chunks_is_a_get_or_a_put() -> None:
    transfers = {
        operation.name
        for operation in vars(table).values()
        if isinstance(operation, table.Operation) and operation.is_transfer
    }
    assert transfers == GETS | PUTS
    assert not GETS & PUTS


@pytest.mark.parametrize("name", sorted(GETS))
def test_a_get_of_any_kind_is_counted_among_the_gets_of_workers(name: str) -> None:
    counts = KeyCounts.of([connector(name)])
    assert (counts.get_hits, counts.get_misses, counts.get_bytes, counts.put) == (1, 1, 7, 0)
    counted = _Counted.of([connector(name)])
    assert (counted.hits, counted.misses, counted.got, counted.put) == (1, 1, 7, 0)


@pytest.mark.parametrize("name", sorted(PUTS))
def test_a_put_of_any_kind_is_counted_among_the_puts_of_workers(name: str) -> None:
    counts = KeyCounts.of([connector(name)])
    assert (counts.put, counts.put_bytes, counts.get_bytes) == (2, 7, 0)
    assert _Counted.of([connector(name)]).put == 7


def test_the_status_page_adds_up_the_same_operations() -> None:
    page = (Path(inspect.getfile(status_page)).parent / "page.html").read_text()
    for constant, names in (("GETS", GETS), ("PUTS", PUTS)):
        (listed,) = re.findall(rf"const {constant} = \[(.*?)\];", page)
        assert set(re.findall(r'"(\w+)"', listed)) == names
