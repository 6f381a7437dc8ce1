"""The states of one object of a get, without a server."""

from __future__ import annotations

import pytest

from lmcache_connect import CorruptRecordError, LocalCPUBackend, MemoryObj
from lmcache_connect.record import decode_header, encode_record
from lmcache_connect_s3.incoming_object import IncomingObject, cut
from lmcache_connect_s3.object_answer import ObjectVersion
from lmcache_connect_s3.object_fetch import Asked, Corrupt, Missing, ObjectFetch, Replaced, Verified

DAMAGED = CorruptRecordError("checksum", "it does not verify")


def chunk_of(backend: LocalCPUBackend) -> MemoryObj:
    chunk = backend.allocate((1000,), "uint8")
    assert chunk is not None
    return chunk


def incoming_into(backend: LocalCPUBackend, *, spans: int = 1, etag: str | None = '"one"') -> IncomingObject:
    chunk = chunk_of(backend)
    record = encode_record("k", chunk)
    return IncomingObject(decode_header(record, "k", len(record)), chunk, ObjectVersion(len(record), etag), spans, None)


def test_a_chunk_that_verified_is_held_for_the_caller(local_cpu_backend: LocalCPUBackend) -> None:
    fetch = ObjectFetch("k", "p/k")
    incoming = incoming_into(local_cpu_backend)
    fetch.begin(incoming)
    fetch.became_verified()
    assert fetch.state == Verified(incoming.chunk)
    assert local_cpu_backend.statistics().live_objects == 1
    incoming.chunk.ref_count_down()


def test_a_missing_object_holds_nothing() -> None:
    fetch = ObjectFetch("k", "p/k")
    fetch.became_missing()
    assert fetch.state == Missing()


def test_an_object_is_corrupt_when_three_connections_have_brought_damage(local_cpu_backend: LocalCPUBackend) -> None:
    fetch = ObjectFetch("k", "p/k")
    for again in (True, True, False):
        fetch.begin(incoming_into(local_cpu_backend))
        assert fetch.recheck(DAMAGED) is again
        assert local_cpu_backend.statistics().live_objects == 0
        assert fetch.state == (Asked() if again else Corrupt(DAMAGED))


def test_an_object_is_read_again_when_it_was_replaced_but_not_for_ever(local_cpu_backend: LocalCPUBackend) -> None:
    fetch = ObjectFetch("k", "p/k")
    for _ in range(4):
        incoming = incoming_into(local_cpu_backend)
        fetch.begin(incoming)
        fetch.became_replaced()
        fetch.became_replaced()  # each of its spans says so
        assert fetch.state == Replaced(incoming)
        assert fetch.restart_after_replacement()
        assert local_cpu_backend.statistics().live_objects == 0
    fetch.begin(incoming_into(local_cpu_backend))
    fetch.became_replaced()
    assert not fetch.restart_after_replacement()
    assert isinstance(fetch.state, Corrupt)
    assert (fetch.state.error.reason, fetch.state.error.removable) == ("replaced", False)
    assert local_cpu_backend.statistics().live_objects == 0


@pytest.mark.parametrize(("spans", "etag", "can_go_on"), [(1, '"one"', True), (1, None, False), (3, None, True)])
def test_a_span_goes_on_only_where_something_tells_that_the_rest_is_of_the_same_object(
    local_cpu_backend: LocalCPUBackend, spans: int, etag: str | None, can_go_on: bool
) -> None:
    incoming = incoming_into(local_cpu_backend, spans=spans, etag=etag)
    assert incoming.can_go_on is can_go_on
    assert [incoming.span_ended() for _ in range(spans)] == [False] * (spans - 1) + [True]
    incoming.chunk.ref_count_down()


def test_what_is_left_is_cut_into_ranges_of_about_one_size() -> None:
    assert cut(100, 100, 10) == []
    assert cut(100, 104, 10) == [(100, 104)]
    assert cut(100, 126, 10) == [(100, 109), (109, 118), (118, 126)]
    assert cut(100, 124, 10) == [(100, 112), (112, 124)]


def test_an_object_whose_replacement_two_threads_see_at_once_is_released(local_cpu_backend: LocalCPUBackend) -> None:
    class Raced(ObjectFetch):
        """Another thread says that it was replaced, just after this one has read the state."""

        is_armed = False

        def __getattribute__(self, name: str) -> object:
            found = super().__getattribute__(name)
            if name == "state" and super().__getattribute__("is_armed"):
                self.is_armed = False
                self.became_replaced()
            return found

    fetch = Raced("k", "p/k")
    incoming = incoming_into(local_cpu_backend)
    fetch.begin(incoming)
    fetch.is_armed = True
    fetch.became_replaced()
    assert fetch.state == Replaced(incoming)
    assert fetch.restart_after_replacement()
    assert local_cpu_backend.statistics().live_objects == 0
