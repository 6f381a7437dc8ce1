"""`NativeClient` and `L2Adapter`: what LMCache's multi-process server stores comes back, whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lmcache_connect.errors import (
    ConnectorClosedError,
    InvalidArgumentError,
    InvalidConfigError,
    InvalidURLError,
    UnknownSchemeError,
)
from lmcache_connect.testing import RcloneServer, ValkeyServer

from ..secret_urls import WITH_A_SECRET, WITHOUT, check_warning, warnings_of
from .restated import AdapterHost, Host, NativeHost, ObjectKey, is_readable

Open = Callable[..., Host]
SIZE = 64 << 10
FACTS = {"dtype": "bfloat16", "kv_layout": "NHD", "revision": "0a1b2c3"}


def key(number: int, **fields: Any) -> ObjectKey:
    return ObjectKey(number.to_bytes(4, "big"), **fields)


def keys(count: int, **fields: Any) -> list[ObjectKey]:
    return [key(number, **fields) for number in range(count)]


def chunk(number: int, size: int = SIZE) -> bytes:
    """Bytes that no other number's chunk has."""
    return (b"%8d" % number) * (size // 8)


def room(count: int, size: int = SIZE) -> list[bytearray]:
    return [bytearray(b"\xaa" * size) for _ in range(count)]


# ------------------------------------------------------------------------------------------------------ both classes


@pytest.mark.parametrize("size", [8, SIZE, 3 << 20])
def test_what_was_stored_is_found_and_loaded_with_holes(open_host: Open, valkey_url: str, size: int) -> None:
    host = open_host(valkey_url)
    stored = keys(6)[::2]
    assert host.store(stored, [chunk(number, size) for number in (0, 2, 4)])
    assert host.exists(keys(6)) == [True, False] * 3
    memory = room(6, size)
    assert host.load(keys(6), memory) == [True, False] * 3
    assert [memory[number] == chunk(number, size) for number in range(6)] == [True, False] * 3


def test_s3_serves_the_same(open_host: Open, rclone_server: RcloneServer) -> None:
    host = open_host(rclone_server.url(f"l2-{os.getpid()}-{id(open_host)}"))
    assert host.store(keys(4), [chunk(number) for number in range(4)])
    memory = room(5)
    assert host.exists(keys(5)) == [True] * 4 + [False]
    assert host.load(keys(5), memory) == [True] * 4 + [False]
    assert [bytes(each) for each in memory[:4]] == [chunk(number) for number in range(4)]


def test_what_one_class_has_stored_the_other_loads(
    open_native: Callable[..., NativeHost], open_adapter: Callable[..., AdapterHost], valkey_url: str
) -> None:
    native, adapter = open_native(valkey_url, identity=FACTS), open_adapter(valkey_url, identity=FACTS)
    salted = key(7, cache_salt="user")
    assert native.store([key(1), salted], [chunk(1), chunk(7)])
    memory = room(3)
    assert adapter.load([key(1), salted, key(7)], memory) == [True, True, False]
    assert [bytes(memory[0]), bytes(memory[1])] == [chunk(1), chunk(7)]


@pytest.mark.parametrize("fact", [{"dtype": "float16"}, {"kv_layout": "HND"}, {"revision": "f"}, {"tenant": "blue"}])
def test_a_server_with_other_facts_misses(open_host: Open, valkey_url: str, fact: dict[str, str]) -> None:
    assert open_host(valkey_url, identity=FACTS).store([key(1)], [chunk(1)])
    other = open_host(valkey_url, identity={**FACTS, **fact})
    assert other.exists([key(1)]) == [False]
    assert other.load([key(1)], room(1)) == [False]


@pytest.mark.parametrize(
    "other",
    [{"model_name": "org/other"}, {"kv_rank": 0x0103}, {"object_group_id": 1}, {"cache_salt": "user"}],
)
def test_another_model_rank_group_or_salt_is_a_miss(open_host: Open, valkey_url: str, other: dict[str, Any]) -> None:
    host = open_host(valkey_url)
    assert host.store([key(1)], [chunk(1)])
    assert host.load([key(1, **other)], room(1)) == [False]


def test_salts_and_secrets_are_in_no_name_of_the_store(
    open_host: Open, valkey_url: str, valkey_server: ValkeyServer
) -> None:
    host = open_host(valkey_url)
    assert host.store([key(1, cache_salt="salt-of-a-user")], [chunk(1)])
    with valkey_server.client() as client:
        names = [name.decode() for name in client.scan_iter()]
    assert len(names) == 1
    assert "salt-of-a-user" not in names[0]


def test_a_deleted_object_is_gone(open_host: Open, valkey_url: str) -> None:
    host = open_host(valkey_url)
    assert host.store(keys(3), [chunk(number) for number in range(3)])
    host.delete([key(1), key(9)])
    assert host.exists(keys(3)) == [True, False, True]


def test_empty_batches_end(open_host: Open, valkey_url: str) -> None:
    host = open_host(valkey_url)
    assert host.store([], []) is True
    assert host.exists([]) == []
    assert host.load([], []) == []


def test_a_store_that_is_not_there_costs_misses_and_comes_back(open_host: Open) -> None:
    with ValkeyServer() as server:
        host = open_host(server.url(), deadline=5, breaker_reset=0.05)
        assert host.store([key(1)], [chunk(1)])
        server.kill()
        memory = room(2)
        assert host.store([key(2)], [chunk(2)]) is False
        assert host.exists(keys(2)) == [False, False]
        assert host.load(keys(2), memory) == [False, False]
        server.start()
        while not host.store([key(3)], [chunk(3)]):
            pass
        while host.load([key(3)], memory[:1]) != [True]:
            pass
        assert memory[0] == chunk(3)


def test_a_full_store_is_a_store_that_failed_and_the_rest_goes_on(open_host: Open, valkey_server: ValkeyServer) -> None:
    with ValkeyServer() as server, server.client() as client:
        host = open_host(server.url())
        assert host.store([key(1)], [chunk(1)])
        client.config_set("maxmemory", "1")
        assert host.store(keys(2), [chunk(0), chunk(1)]) is False
        assert host.load([key(1)], room(1)) == [True]
        client.config_set("maxmemory", "0")
        assert host.store(keys(2), [chunk(0), chunk(1)]) is True


def test_closing_ends_what_is_under_way_and_may_be_repeated(open_host: Open) -> None:
    with ValkeyServer() as server:
        host = open_host(server.url(), close_grace=0.05)
        assert host.store([key(1)], [chunk(1)])
        server.pause()
        memory = room(1)
        host.begin_load([key(1)], memory)
        host.close()
        before = bytes(memory[0])
        server.resume()
        with server.client() as client:
            assert client.ping()  # what the load had asked for was answered before
        assert bytes(memory[0]) == before
        memory[0].append(0)  # and nobody holds it
        host.close()
        with pytest.raises(ConnectorClosedError):
            host.begin_load([key(1)], memory)


def test_every_thread_that_closes_goes_on_when_nothing_holds_the_memory(open_host: Open) -> None:
    with ValkeyServer() as server:
        host = open_host(server.url(), close_grace=0.3)
        assert host.store([key(1)], [chunk(1)])
        server.pause()
        memory = room(1)
        host.begin_load([key(1)], memory)

        def close(_: int) -> None:
            host.close()
            memory[0].append(0)  # raises BufferError where something holds it

        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(close, range(2))) == [None, None]
        server.resume()


@pytest.mark.parametrize(
    ("params", "error", "told"),
    [
        ({"url": ""}, InvalidConfigError, r"adapter_params\.url"),
        ({"url": "redis://h:0x"}, InvalidURLError, "port"),
        ({"url": "rediss3://h:1"}, UnknownSchemeError, "rediss3"),
        ({"url": "redis://h:1?tll=5"}, InvalidURLError, "tll"),
        (
            {"url": "redis://h:1", "deadlin": 5},
            InvalidConfigError,
            "did you mean 'deadline'.*strict_identity, .*retries",
        ),
        ({"url": "redis://h:1", "deadline": -1}, InvalidArgumentError, "deadline"),
        ({"url": "redis://h:1", "max_waiting_store_bytes": "5 parsecs"}, InvalidArgumentError, "max_waiting_store"),
        ({"url": "redis://h:1", "strict_identity": True}, InvalidConfigError, "strict_identity"),
        ({"url": "redis://h:1", "strict_identity": "no"}, InvalidConfigError, "expected true or false"),
    ],
)
def test_a_wrong_configuration_is_named_at_the_start(
    open_host: Open, params: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        open_host(**params)


def test_a_url_with_a_secret_may_come_from_the_environment(
    open_host: Open, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_URL", valkey_url)
    assert open_host("").store([key(1)], [chunk(1)])


def test_counts_that_differ_and_memory_that_cannot_be_loaded_into_are_named(
    open_native: Callable[..., NativeHost], valkey_url: str
) -> None:
    client = open_native(valkey_url).client
    text = key(1).text()
    with pytest.raises(InvalidArgumentError, match="2"):
        client.submit_batch_get([text, text], [memoryview(bytearray(8))])
    with pytest.raises(InvalidArgumentError, match="read-only"):
        client.submit_batch_get([text], [memoryview(b"12345678")])
    with pytest.raises(InvalidArgumentError, match="contiguous"):
        client.submit_batch_get([text], [memoryview(bytearray(8))[::2]])


# ------------------------------------------------------------------------------------------------------ native client


def test_the_descriptor_rests_while_nothing_has_ended(open_native: Callable[..., NativeHost], valkey_url: str) -> None:
    host = open_native(valkey_url)
    assert not is_readable(host.client.event_fd(), 0)
    host.exists(keys(1))
    assert not is_readable(host.client.event_fd(), 0)


def test_the_status_tells_the_store_the_counters_and_no_secret(
    open_native: Callable[..., NativeHost], valkey_url: str
) -> None:
    host = open_native(valkey_url.replace("redis://", "redis://:hunter22@"))
    status = host.client.report_status()
    assert status["identity"]["unknown"] == ["dtype", "kv_layout", "revision"]
    assert "hunter22" not in repr(status) + repr(host.client)


# --------------------------------------------------------------------------------------------------------- L2 adapter


def test_the_three_descriptors_differ(open_adapter: Callable[..., AdapterHost], valkey_url: str) -> None:
    adapter = open_adapter(valkey_url).adapter
    numbers = [
        adapter.get_store_event_fd(),
        adapter.get_lookup_and_lock_event_fd(),
        adapter.get_load_event_fd(),
    ]
    assert len(set(numbers)) == 3
    assert not any(os.get_inheritable(number) for number in numbers)


def test_usage_counts_each_object_once_by_salt_and_falls_with_its_removal(
    open_adapter: Callable[..., AdapterHost], valkey_url: str
) -> None:
    host = open_adapter(valkey_url, max_capacity_gb=0.5)
    salted = key(5, cache_salt="user")
    for _ in range(2):
        assert host.store([*keys(2), salted], [chunk(0), chunk(1), chunk(5)])
    usage = host.adapter.get_usage()
    assert (usage.total_bytes_used, usage.total_capacity_bytes) == (3 * SIZE, 1 << 29)
    assert usage.bytes_by_cache_salt == {"": 2 * SIZE, "user": SIZE}
    host.delete([key(0), key(77)])
    assert host.adapter.get_usage().total_bytes_used == 2 * SIZE


def test_listeners_hear_of_what_was_stored_loaded_and_removed(
    open_adapter: Callable[..., AdapterHost], valkey_url: str
) -> None:
    from .restated import Events

    host = open_adapter(valkey_url)
    events = Events()
    host.adapter.listeners.append(events)
    assert host.store(keys(2), [chunk(0), chunk(1)])
    assert events.stored == [(keys(2), [SIZE, SIZE])]
    assert host.load([key(1), key(9)], room(2)) == [True, False]
    assert events.accessed == [[key(1)]]
    host.delete([key(1), key(9)])
    assert events.deleted == [[key(1)]]


def test_a_listener_that_fails_costs_no_answer(open_adapter: Callable[..., AdapterHost], valkey_url: str) -> None:
    from .restated import Events

    host = open_adapter(valkey_url)
    host.adapter.listeners.append(Events(fails=True))
    assert host.store([key(1)], [chunk(1)])
    assert host.load([key(1)], room(1)) == [True]


def test_an_object_is_not_removed_while_it_is_locked(open_adapter: Callable[..., AdapterHost], valkey_url: str) -> None:
    host = open_adapter(valkey_url)
    assert host.store(keys(2), [chunk(0), chunk(1)])
    for _ in range(2):
        assert host.look_up(keys(2)) == [True, True]
    host.adapter.submit_unlock([key(0), key(1)])
    host.adapter.submit_unlock([key(0), key(8)])
    host.delete(keys(2))
    assert host.exists(keys(2)) == [False, True]
    host.adapter.submit_unlock([key(1)])
    host.delete(keys(2))
    assert host.exists(keys(2)) == [False, False]


def test_what_the_store_has_forgotten_on_its_own_leaves_the_account_at_the_next_look_up(
    open_adapter: Callable[..., AdapterHost], valkey_url: str, valkey_server: ValkeyServer
) -> None:
    host = open_adapter(valkey_url)
    assert host.store(keys(3), [chunk(number) for number in range(3)])
    valkey_server.flush()
    assert host.exists([key(0), key(1)]) == [False, False]
    assert host.adapter.get_usage().total_bytes_used == SIZE
    assert host.adapter.report_status()["stored_object_count"] == 1


def test_a_store_that_is_down_changes_no_account(open_adapter: Callable[..., AdapterHost]) -> None:
    with ValkeyServer() as server:
        host = open_adapter(server.url(), deadline=5)
        assert host.store([key(1)], [chunk(1)])
        server.kill()
        assert host.exists([key(1)]) == [False]
        host.delete([key(1)])
        assert host.adapter.get_usage().total_bytes_used == SIZE
        with pytest.raises(RuntimeError, match="did not answer"):
            host.adapter.list_l2_keys()


def test_a_listing_gives_every_key_once_by_pages_and_none_that_is_gone(
    open_adapter: Callable[..., AdapterHost], valkey_url: str, valkey_server: ValkeyServer
) -> None:
    host = open_adapter(valkey_url)
    other = key(1, model_name="org/other")
    assert host.store([*keys(5), other], [chunk(number) for number in range(6)])
    with valkey_server.client() as client:
        for name in client.scan_iter(match="*@00000003*"):
            client.delete(name)
    found, cursor = [], None
    while True:
        page = host.adapter.list_l2_keys("org/model", page_size=2, cursor=cursor)
        found += [(entry.key[0], entry.size_bytes) for entry in page.entries]
        if (cursor := page.next_page_token) is None:
            break
    assert found == [(f"{number:08x}", SIZE) for number in (0, 1, 2, 4)]
    everything = host.adapter.list_l2_keys()
    assert len(everything.entries) == 5
    assert everything.next_page_token is None
    assert host.adapter.list_l2_keys("nobody").entries == ()


@pytest.mark.parametrize(("arguments", "told"), [({"page_size": 0}, "page_size"), ({"cursor": "x"}, "cursor")])
def test_a_listing_refuses_a_wrong_page(
    open_adapter: Callable[..., AdapterHost], valkey_url: str, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        open_adapter(valkey_url).adapter.list_l2_keys(**arguments)


def test_the_status_is_healthy_until_it_is_closed_and_the_medium_is_shared(
    open_adapter: Callable[..., AdapterHost], valkey_url: str
) -> None:
    host = open_adapter(valkey_url)
    status = host.adapter.report_status()
    assert status["is_healthy"] is True
    assert status["type"] == "L2Adapter"
    assert host.adapter.get_memory_tags().residency.value == "remote"
    host.close()
    assert host.adapter.report_status()["is_healthy"] is False


@pytest.mark.parametrize("capacity", [-1, "5", True, float("nan")])
def test_a_wrong_capacity_is_named(open_adapter: Callable[..., AdapterHost], capacity: Any) -> None:
    with pytest.raises(InvalidConfigError, match="max_capacity_gb"):
        open_adapter("redis://h:1", max_capacity_gb=capacity)


@pytest.mark.parametrize("url", WITH_A_SECRET.values(), ids=WITH_A_SECRET)
def test_a_secret_in_the_url_is_taken_and_warned_of_once(
    open_host: Open, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    open_host(url)
    check_warning(caplog, "adapter_params.url")


def test_a_url_that_says_where_the_password_is_or_one_of_the_environment_is_not_warned_of(
    open_host: Open, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "of the environment")
    monkeypatch.setenv("LMCACHE_CONNECT_URL", WITH_A_SECRET["password"])
    open_host(WITHOUT)
    open_host("")
    assert not warnings_of(caplog)
