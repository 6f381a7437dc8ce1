"""The descriptor that an engine watches, as an eventfd and as a pipe."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from lmcache_connect.engines.event_descriptor import EventDescriptor


@pytest.fixture(params=[False, True], ids=["eventfd", "pipe"])
def event(request: pytest.FixtureRequest) -> Iterator[EventDescriptor]:
    made = EventDescriptor(pipe=request.param)
    yield made
    made.close()


def is_readable(event: EventDescriptor) -> bool:
    return bool(select.select([event.fileno()], [], [], 0)[0])


def test_it_is_readable_from_set_to_clear(event: EventDescriptor) -> None:
    assert not is_readable(event)
    event.set()
    event.set()
    assert is_readable(event)
    event.clear()
    assert not is_readable(event)
    event.clear()


def test_a_reader_clears_it_and_a_further_set_is_seen(event: EventDescriptor) -> None:
    event.set()
    assert len(os.read(event.fileno(), 8)) == 8
    assert not is_readable(event)
    event.set()
    assert is_readable(event)


def test_it_is_set_any_number_of_times_without_blocking(event: EventDescriptor) -> None:
    for _ in range(20_000):  # more than a pipe holds
        event.set()
    assert is_readable(event)
    event.clear()
    assert not is_readable(event)


def test_it_is_not_inherited(event: EventDescriptor) -> None:
    assert not os.get_inheritable(event.fileno())


def test_after_close_it_is_nobodys(event: EventDescriptor) -> None:
    number = event.fileno()
    event.close()
    assert event.fileno() == -1
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(number)
    event.set()
    event.clear()
    event.close()
