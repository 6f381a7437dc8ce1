"""Damage in the store and on the way to it costs the damaged object alone, in time; nothing is written afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lmcache_connect.testing import Fault, FaultKind, FaultProxy

from ..stores import Store
from .restated import AdapterHost, Host, NativeHost
from .test_l2_clients import SIZE, Open, chunk, key, keys, room

pytestmark = pytest.mark.in_turn

WATCH_SECONDS = 2.0
"""How long memory is watched after an answer."""


def word_of(number: int) -> str:
    """What only the name of this object's record holds."""
    return "@" + key(number).text().rpartition("@")[2]


def flip(record: bytes, other: bytes) -> bytes:
    middle = len(record) // 2
    return record[:middle] + bytes((record[middle] ^ 1,)) + record[middle + 1 :]


def swap(record: bytes, other: bytes) -> bytes:
    return other


def cut(record: bytes, other: bytes) -> bytes:
    return record[:-1]


def lengthen(record: bytes, other: bytes) -> bytes:
    return record + b"\0"


@pytest.mark.parametrize("damage", [flip, swap, cut, lengthen])
def test_a_damaged_record_is_a_failure_for_its_key_alone(
    open_host: Open, store: Store, damage: Callable[[bytes, bytes], bytes]
) -> None:
    host = open_host(store.url())
    assert host.store(keys(4), [chunk(number) for number in range(4)])
    store.write(word_of(2), damage(store.read(word_of(2)), store.read(word_of(3))))
    memory = room(4)
    assert host.load(keys(4), memory) == [True, True, False, True]
    assert [bytes(memory[number]) for number in (0, 1, 3)] == [chunk(number) for number in (0, 1, 3)]


def test_an_object_that_goes_between_look_up_and_load_is_a_failure_for_its_key_alone(
    open_host: Open, store: Store
) -> None:
    host = open_host(store.url())
    assert host.store(keys(3), [chunk(number) for number in range(3)])
    assert host.exists(keys(3)) == [True] * 3
    store.remove(word_of(1))
    memory = room(3)
    assert host.load(keys(3), memory) == [True, False, True]
    assert [bytes(memory[0]), bytes(memory[2])] == [chunk(0), chunk(2)]


@pytest.mark.parametrize("size", [SIZE - 8, SIZE + 8])
def test_memory_of_another_length_is_a_failure_for_its_key_alone(open_host: Open, store: Store, size: int) -> None:
    host = open_host(store.url())
    assert host.store(keys(3), [chunk(number) for number in range(3)])
    memory = [bytearray(SIZE), bytearray(size), bytearray(SIZE)]
    assert host.load(keys(3), memory) == [True, False, True]
    assert [bytes(memory[0]), bytes(memory[2])] == [chunk(0), chunk(2)]


@pytest.mark.parametrize("io", ["loop", "thread"])
def test_a_server_that_stops_within_a_chunk_costs_the_deadline_and_nothing_is_written_later(
    open_native: Callable[..., NativeHost],
    open_adapter: Callable[..., AdapterHost],
    store: Store,
    io: str,
) -> None:
    size = 4 << 20
    with FaultProxy(store.server.host, store.server.port) as proxy:
        url = store.url(proxy, io=io, pool_size=1)
        hosts: list[Host] = [open_native(url, deadline=1.0), open_adapter(url, deadline=1.0)]
        assert hosts[0].store(keys(2), [chunk(number, size) for number in range(2)])
        memory = [room(2, size) for _ in hosts]
        proxy.arm(Fault(FaultKind.STALL, after_bytes=size + size // 2))
        begun = time.monotonic()
        numbers = [host.begin_load(keys(2), chunks) for host, chunks in zip(hosts, memory, strict=True)]
        answers = [host.end_load(number) for host, number in zip(hosts, numbers, strict=True)]
        assert time.monotonic() - begun < 5
        assert not all(flag for answer in answers for flag in answer)
        for answer, chunks in zip(answers, memory, strict=True):
            assert all(bytes(chunks[number]) == chunk(number, size) for number, flag in enumerate(answer) if flag)
        before = [[bytes(each) for each in chunks] for chunks in memory]
        proxy.disarm()  # what was under way may now arrive
        ends = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < ends:
            assert [[bytes(each) for each in chunks] for chunks in memory] == before
            time.sleep(0.1)
        for host in hosts:  # and the store serves again
            again = room(2, size)
            while host.load(keys(2), again) != [True, True]:
                pass
            assert bytes(again[1]) == chunk(1, size)


def test_a_frozen_server_costs_the_deadline_and_a_killed_one_less_and_nothing_is_written_later(
    open_native: Callable[..., NativeHost], open_adapter: Callable[..., AdapterHost], own_store: Store
) -> None:
    size, server, url = 4 << 20, own_store.server, own_store.url()
    hosts: list[Host] = [open_native(url, deadline=1.0), open_adapter(url, deadline=1.0)]
    assert hosts[0].store(keys(3), [chunk(number, size) for number in range(3)])
    memory = [room(3, size) for _ in hosts]
    numbers = [host.begin_load(keys(3), chunks) for host, chunks in zip(hosts, memory, strict=True)]
    server.pause()
    begun = time.monotonic()
    answers = [host.end_load(number) for host, number in zip(hosts, numbers, strict=True)]
    assert time.monotonic() - begun < 5
    before = [[bytes(each) for each in chunks] for chunks in memory]
    for answer, chunks in zip(answers, before, strict=True):
        assert all(chunks[number] == chunk(number, size) for number, flag in enumerate(answer) if flag)
    server.resume()
    assert own_store.read(word_of(0))
    ends = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < ends:
        assert [[bytes(each) for each in chunks] for chunks in memory] == before
        time.sleep(0.1)
    server.kill()
    for host in hosts:
        begun = time.monotonic()
        assert host.load(keys(1), room(1, size)) == [False]
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("fault", ["stopped", "killed"])
@pytest.mark.parametrize("client", ["native", "adapter"])
def test_a_server_that_goes_amid_a_load_costs_the_objects_that_had_not_come(
    open_native: Callable[..., NativeHost],
    open_adapter: Callable[..., AdapterHost],
    own_store: Store,
    proxy: FaultProxy,
    client: str,
    fault: str,
) -> None:
    size, server = 1 << 20, own_store.server
    open_host: Callable[..., Host] = open_native if client == "native" else open_adapter
    host = open_host(own_store.url(proxy, pool_size=1, attempts=1), deadline=1.0, retries=0)
    assert host.store(keys(4), [chunk(number, size) for number in range(4)])
    memory = room(4, size)
    proxy.arm(Fault(FaultKind.STALL, after_bytes=2 * size + size // 2))
    number = host.begin_load(keys(4), memory)
    assert proxy.wait_fired(10)
    end = server.pause if fault == "stopped" else server.kill
    end()
    assert host.end_load(number) == [True, True, False, False]
    before = [bytes(each) for each in memory]
    assert before[:2] == [chunk(number, size) for number in range(2)]
    proxy.disarm()  # what was under way may now arrive
    ends = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < ends:
        assert [bytes(each) for each in memory] == before
        time.sleep(0.1)
    if fault == "stopped":
        server.resume()
