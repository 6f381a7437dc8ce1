"""Damage: a failure for that key alone, and vLLM's memory is left alone once the failure has been told."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lmcache_connect.testing import Fault, FaultKind, FaultProxy

from ..stores import Store
from .host import Host, content_of, key_of

pytestmark = pytest.mark.in_turn

Make = Callable[..., Host]

MIB = 1 << 20
WATCHED = 2.0
"""Seconds for which memory is watched after an answer."""


def assert_left_alone(host: Host, seconds: float = WATCHED) -> None:
    """Compares every byte of vLLM's memory, again and again, with what it was when the answer came."""
    before = bytes(host.memory)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        assert host.memory == before, "something was written after the answer"
        time.sleep(0.005)


def word_of(number: int) -> str:
    """What only the name of this chunk's record holds."""
    return key_of(number)[:-4].hex()


def test_each_damaged_record_fails_alone_and_nothing_is_written_afterwards(host: Make, store: Store) -> None:
    first, second = host(store.url()), host(store.url())
    first.store(range(8))
    keys = [key_of(number) for number in range(8)]
    context = second.request("r")
    assert second.look_up(keys, context) == [True] * 8
    whole = store.read(word_of(1))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    store.write(word_of(1), bytes(flipped))
    store.write(word_of(2), store.read(word_of(6)))
    store.write(word_of(3), store.read(word_of(3))[:-1])
    store.write(word_of(4), store.read(word_of(4)) + b"x")
    store.remove(word_of(5))
    result = second.run("load", keys, range(8), context)
    assert second.loaded(result, keys) == [True, False, False, False, False, False, True, True]
    assert [second.read(number) for number in (0, 6, 7)] == [content_of(number) for number in (0, 6, 7)]
    assert_left_alone(second)


@pytest.mark.parametrize("end", ["pause", "kill"])
def test_a_server_that_stops_in_the_middle_of_a_load_fails_it_by_its_deadline_and_nothing_is_written_afterwards(
    host: Make, own_store: Store, proxy: FaultProxy, end: str
) -> None:
    # Every other limit is far beyond what the test waits for.
    limits = {"operation_timeout": 600, "stall_timeout": 600, "close_grace": 0.1}
    server, url = own_store.server, own_store.url()
    host(url, chunks=4, nbytes=MIB).store(range(4))
    one = host(own_store.url(proxy, attempts=1), chunks=8, nbytes=MIB, deadline=3.0, **limits)
    context = one.request("r")
    keys = [key_of(number) for number in range(4)]
    assert one.look_up(keys, context) == [True] * 4
    proxy.arm(Fault(FaultKind.STALL, after_bytes=MIB + MIB // 2))
    job = one.submit("load", keys, [1, 3, 5, 7], context)
    assert proxy.wait_fired(10)
    getattr(server, end)()
    result = one.result(job)
    assert not result.success
    before = bytes(one.memory)
    if end == "pause":
        server.resume()
    proxy.disarm()  # what was held goes on to the client now, if it still listens
    assert one.memory == before
    assert_left_alone(one)
    if end == "kill":
        server.restart()
        host(url, chunks=4, nbytes=MIB).store(range(4))
    later = host(url, chunks=8, nbytes=MIB)
    assert later.loaded(later.run("load", keys, [1, 3, 5, 7], later.request("s")), keys) == [True] * 4
    assert [later.read(chunk) for chunk in (1, 3, 5, 7)] == [content_of(number, 0, MIB) for number in range(4)]


def test_a_load_of_many_chunks_keeps_what_whole_jobs_have_brought_when_the_server_stops(
    host: Make, own_store: Store, proxy: FaultProxy
) -> None:
    nbytes, chunks = 8 * MIB, 12  # two chunks a job, four jobs at a time
    keys = [key_of(number) for number in range(chunks)]
    patient = host(own_store.url(), chunks=chunks, nbytes=nbytes, deadline=30.0, lookup_deadline=30.0)
    patient.store(range(chunks))
    assert patient.look_up(keys, patient.request("r")) == [True] * chunks
    one = host(
        own_store.url(proxy, pool_size=1, attempts=1),
        chunks=chunks,
        nbytes=nbytes,
        deadline=3.0,
        operation_timeout=600,
        stall_timeout=600,
        close_grace=0.1,
    )
    proxy.arm(Fault(FaultKind.STALL, after_bytes=80 * MIB, count=None))
    loaded = one.loaded(one.run("load", keys, range(chunks), one.request("r")), keys)
    assert 0 < sum(loaded) < chunks, loaded
    for number, is_loaded in enumerate(loaded):
        if is_loaded:
            assert one.read(number) == content_of(number, 0, nbytes)
    assert_left_alone(one, 0.2)
