"""A tier on a real store: what one engine has stored another one loads, each key has its answer, and nothing waits."""

from __future__ import annotations

import mmap
import os
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lmcache_connect.engines.jobs import JobPort
from lmcache_connect.engines.vllm.tasks import Place
from lmcache_connect.errors import InvalidConfigError, InvalidURLError, LMCacheConnectError
from lmcache_connect.testing import Fault, FaultKind, FaultProxy, RcloneServer, ValkeyServer

from ...matrix.callers.connector_caller import forked
from ..secret_urls import WITH_A_SECRET, WITHOUT, check_warning, warnings_of
from .host import AT_MOST, CHUNK, Host, content_of, key_of
from .restated import spec

Make = Callable[..., Host]


def load(host: Host, keys: Sequence[bytes], chunks: Sequence[int]) -> list[bool]:
    return host.loaded(host.run("load", keys, chunks, host.request("loads")), keys)


def test_a_second_engine_finds_and_loads_what_the_first_stored_in_any_order(host: Make, valkey_url: str) -> None:
    first, second = host(valkey_url), host(valkey_url)
    first.store(range(10))
    order = random.Random(7).sample(range(10), 10)
    chunks = random.Random(8).sample(range(32), 10)
    keys = [key_of(number) for number in order]
    assert second.look_up(keys, second.request("r")) == [True] * 10
    assert load(second, keys, chunks) == [True] * 10
    assert [second.read(chunk) for chunk in chunks] == [content_of(number) for number in order]
    untouched = [chunk for chunk in range(32) if chunk not in chunks]
    assert all(second.read(chunk) == bytes(CHUNK) for chunk in untouched)


def test_two_engines_share_an_s3_bucket(host: Make, rclone_server: RcloneServer) -> None:
    first, second = (host(rclone_server.url("vllm-tier")) for _ in range(2))
    first.store([0, 1, 3])
    keys = [key_of(number) for number in range(4)]
    assert second.look_up(keys, second.request("r")) == [True, True, False, True]
    assert load(second, keys, [7, 6, 5, 4]) == [True, True, False, True]
    assert [second.read(chunk) for chunk in (7, 6, 4)] == [content_of(number) for number in (0, 1, 3)]


def test_keys_that_are_not_there_are_holes_and_the_others_come(host: Make, valkey_url: str) -> None:
    first, second = host(valkey_url), host(valkey_url)
    first.store([0, 2, 4])
    keys = [key_of(number) for number in range(5)]
    assert second.look_up(keys, second.request("r")) == [True, False, True, False, True]
    assert load(second, keys, range(5)) == [True, False, True, False, True]
    assert [second.read(number) for number in (0, 2, 4)] == [content_of(number) for number in (0, 2, 4)]


def test_one_hash_in_two_groups_is_two_chunks(host: Make, valkey_url: str) -> None:
    first, second = (host(valkey_url, of=spec(groups=2)) for _ in range(2))
    first.store([5], group=0)
    assert second.look_up([key_of(5, 0), key_of(5, 1)], second.request("r")) == [True, False]
    first.store([5], group=1)
    assert load(second, [key_of(5, 1), key_of(5, 0)], [0, 1]) == [True, True]
    assert second.read(0) == content_of(5, 1)
    assert second.read(1) == content_of(5, 0)


@pytest.mark.parametrize(
    "other",
    [
        {"of": spec(model="org/other")},
        {"of": spec(dtype="fp8")},
        {"of": spec(layout="LBHNC")},
        {"of": spec(layout=None)},
        {"of": spec(tp=2)},
        {"of": spec(groups=2)},
        {"nbytes": 4096},
        {"identity": {"revision": "r2"}},
        {"identity": {"revision": "r1", "tenant": "other"}},
    ],
    ids=["model", "dtype", "layout", "no layout", "parallel shape", "groups", "bytes", "revision", "tenant"],
)
def test_another_value_of_what_bytes_depend_on_is_a_miss(host: Make, valkey_url: str, other: dict[str, Any]) -> None:
    host(valkey_url).store([1])
    stranger = host(valkey_url, **other)
    assert stranger.look_up([key_of(1)], stranger.request("r")) == [False]
    assert load(stranger, [key_of(1)], [0]) == [False]


def test_the_operators_name_of_a_model_replaces_a_path(host: Make, valkey_url: str) -> None:
    named = {"model": "org/model", "revision": "r1"}
    host(valkey_url, of=spec(model="/disk/1"), identity=named).store([1])
    other = host(valkey_url, of=spec(model="/mnt/2"), identity=named)
    assert other.look_up([key_of(1)], other.request("r")) == [True]


def test_chunks_that_the_store_has_are_not_sent_again(host: Make, valkey_server: ValkeyServer, valkey_url: str) -> None:
    first, second = host(valkey_url), host(valkey_url)
    first.store(range(4))
    received = valkey_server.client().info("stats")["total_net_input_bytes"]
    second.store(range(5))
    sent = valkey_server.client().info("stats")["total_net_input_bytes"] - received
    assert CHUNK < sent < 2 * CHUNK
    assert first.look_up([key_of(4)], first.request("r")) == [True]


def test_a_load_that_fails_tells_its_keys_and_they_stay_missing_for_the_request(
    host: Make, valkey_server: ValkeyServer, valkey_url: str
) -> None:
    first, second = host(valkey_url), host(valkey_url)
    first.store(range(3))
    context = second.request("r")
    keys = [key_of(number) for number in range(3)]
    assert second.look_up(keys, context) == [True] * 3
    remove(valkey_server, keys[1])
    result = second.run("load", keys, range(3), context)
    assert not result.success
    assert set(result.successful_keys) == {keys[0], keys[2]}
    assert second.look_up(keys, context) == [True, False, True]
    first.store([1])
    assert second.look_up(keys, context) == [True, False, True], "the request has computed it: no circle"
    second.tier.on_request_finished(context)
    assert second.look_up(keys, second.request("s")) == [True] * 3


def remove(server: ValkeyServer, key: bytes) -> None:
    client = server.client()
    names = [name for name in client.scan_iter() if key[:-4].hex().encode() in name]
    assert names
    client.delete(*names)


def test_a_record_that_is_there_and_cannot_be_loaded_is_stored_again(host: Make, valkey_url: str) -> None:
    first, second = host(valkey_url), host(valkey_url)
    # A whole record of another length: no checksum tells that it is wrong, so it stays under the key.
    with JobPort(valkey_url) as port:
        name = Place(port, first.tier._namespace, first.tier._memory).name(key_of(1))
        put = port.wait(port.submit_put([name], [bytes(100)]), AT_MOST)
        assert put is not None
        assert put.ok
    context = second.request("r")
    assert second.look_up([key_of(1)], context) == [True]
    assert load(second, [key_of(1)], [0]) == [False]
    second.write(3, content_of(1))
    assert second.run("store", [key_of(1)], [3], context).success
    assert load(second, [key_of(1)], [9]) == [True]
    assert second.read(9) == content_of(1)


def test_a_store_that_is_full_fails_and_says_so(host: Make) -> None:
    with ValkeyServer(maxmemory="4mb") as server:
        one = host(server.url(), chunks=8, nbytes=1 << 20)
        keys = [key_of(number) for number in range(8)]
        result = one.run("store", keys, range(8), one.request("r"))
        assert not result.success
        assert one.tier.has_pending_work() is False


def test_stores_beyond_the_bytes_that_may_wait_fail_and_the_others_are_stored(
    host: Make, valkey_server: ValkeyServer
) -> None:
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        proxy.arm(Fault(FaultKind.DELAY, delay=0.05))
        one = host(f"redis://{proxy.host}:{proxy.port}", max_waiting_store_bytes=CHUNK)
        context = one.request("r")
        jobs = [one.submit("store", [key_of(number)], [number], context) for number in range(16)]
        one.tier.drain_jobs()
        stored = [one.result(job).success for job in jobs]
        assert True in stored
        assert False in stored
        assert one.look_up([key_of(number) for number in range(16)], context) == stored


def test_a_look_up_that_the_store_does_not_answer_is_a_miss_after_its_own_deadline(host: Make) -> None:
    with ValkeyServer() as server:
        one = host(
            server.url(), lookup_deadline=0.1, deadline=600, operation_timeout=600, stall_timeout=600, close_grace=0.01
        )
        one.store([1])
        server.pause()
        assert one.look_up([key_of(1), key_of(2)], one.request("r")) == [False, False]
        stats = one.tier.get_stats().reduce()
        assert [value for name, value in stats.items() if "lookups_expired" in name] == [2]
        server.resume()


def test_a_store_that_is_down_costs_misses_and_comes_back_by_itself(host: Make) -> None:
    with ValkeyServer() as server:
        one = host(server.url(), breaker_reset=0.05, retries=0)
        one.store([1])
        server.kill()
        for round in range(10):
            context = one.request(f"r{round}")
            assert one.look_up([key_of(1)], context) == [False]
            assert load(one, [key_of(1)], [5]) == [False]
            assert not one.run("store", [key_of(2)], [5], context).success
            one.tier.on_request_finished(context)
        server.restart()
        for round in range(1000):
            context = one.request(f"s{round}")
            if one.run("store", [key_of(1)], [0], context).success:
                break
        assert one.look_up([key_of(1)], one.request("back")) == [True]


def test_a_store_that_refuses_the_login_costs_misses_and_vllm_starts(host: Make) -> None:
    with ValkeyServer(password="right") as server:
        one = host(f"redis://:wrong@{server.host}:{server.port}")
        context = one.request("r")
        assert one.look_up([key_of(1)], context) == [False]
        assert load(one, [key_of(1)], [0]) == [False]
        assert not one.run("store", [key_of(1)], [0], context).success


def test_drained_jobs_are_all_reported_and_nothing_is_pending(host: Make, valkey_url: str) -> None:
    one = host(valkey_url)
    context = one.request("r")
    jobs = [one.submit("store", [key_of(number)], [number], context) for number in range(8)]
    jobs += [one.submit("load", [key_of(100 + number)], [20 + number], context) for number in range(3)]
    assert one.tier.has_pending_work()
    one.tier.drain_jobs()
    results = {result.job_id: result.success for result in one.tier.get_finished_jobs()}
    assert results == {job: job < 8 for job in jobs}
    assert not one.tier.has_pending_work()
    assert list(one.tier.get_finished_jobs()) == []


def test_each_of_many_transfers_has_one_answer_however_threads_are_switched(host: Make, valkey_url: str) -> None:
    one = host(valkey_url, nbytes=256)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        context = one.request("r")
        for chunk in range(32):
            one.write(chunk, content_of(chunk, 0, 256))
        stores = [one.submit("store", [key_of(number)], [number], context) for number in range(16)]
        assert all(one.result(job).success for job in stores)
        loads: dict[int, list[bool]] = {}
        for turn in range(200):
            keys = [key_of((turn + at) % 32) for at in range(2)]
            job = one.submit("load", keys, [(turn + at) % 32 for at in range(2)], context)
            loads[job] = [(turn + at) % 32 < 16 for at in range(2)]
            one.look_up(keys, one.request(f"r{turn}")) if turn % 20 == 0 else one.step()
        for job, expected in loads.items():
            assert one.result(job).success is all(expected)
    finally:
        sys.setswitchinterval(before)
    assert [one.read(chunk) for chunk in range(16)] == [content_of(chunk, 0, 256) for chunk in range(16)]
    assert not one.tier.has_pending_work()


def test_vllm_can_unmap_its_memory_after_shutdown(tier_class: Any, names: Any, valkey_url: str) -> None:
    region = mmap.mmap(-1, 8 * CHUNK)
    one = Host(tier_class, names, spec(), chunks=8, memory=region, url=valkey_url, identity={"revision": "r1"})
    one.run("store", [key_of(1), key_of(2)], [0, 1], one.request("r"))
    one.run("load", [key_of(1), key_of(3)], [2, 3], one.request("r"))
    one.submit("load", [key_of(1)], [4], one.request("r"))
    one.close()
    one.view.release()
    region.close()


def test_what_is_asked_after_shutdown_has_failed(host: Make, valkey_url: str) -> None:
    one = host(valkey_url)
    one.store([1])
    one.close()
    context = one.request("r")
    assert one.look_up([key_of(1)], context) == [False]
    assert load(one, [key_of(1)], [0]) == [False]
    assert not one.run("store", [key_of(1)], [0], context).success
    one.close()


def test_a_chunk_that_vllm_does_not_have_fails_and_the_engine_goes_on(host: Make, valkey_url: str) -> None:
    one = host(valkey_url)
    one.store([1])
    assert load(one, [key_of(1)], [32]) == [False]
    assert load(one, [key_of(1)], [-1]) == [False]
    assert load(one, [key_of(1)], [31]) == [True]


def test_events_tell_what_was_stored_where_vllm_wants_them(host: Make, valkey_url: str) -> None:
    told = host(valkey_url, of=spec(events=True), enable_kv_events=True, locality="REMOTE")
    told.store([1, 2])
    (event,) = told.tier.take_events()
    assert event.keys == [key_of(1), key_of(2)]
    assert (event.medium.value, event.locality.value, event.removed) == ("STORAGE", "REMOTE", False)
    assert list(told.tier.take_events()) == []
    for silent in (host(valkey_url, enable_kv_events=True), host(valkey_url, of=spec(events=True))):
        silent.store([1, 2])
        assert list(silent.tier.take_events()) == []


def test_counters_tell_what_was_moved_and_are_declared(host: Make, tier_class: Any, valkey_url: str) -> None:
    one = host(valkey_url, name="remote")
    one.store([1, 2])
    one.store([1, 2, 3])
    load(one, [key_of(1), key_of(9)], [4, 5])
    stats = one.tier.get_stats()
    found = stats.reduce()
    prefix = "lmcache_connect_vllm_chunks:"
    assert {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)} == {
        "('remote', 'store', 'ok')": 3,
        "('remote', 'store', 'present')": 2,
        "('remote', 'load', 'ok')": 1,
        "('remote', 'load', 'failed')": 1,
    }
    assert found["lmcache_connect_vllm_bytes:('remote', 'store')"] == 3 * CHUNK
    assert found["lmcache_connect_vllm_bytes:('remote', 'load')"] == CHUNK
    assert one.tier.get_stats() is None
    declared = tier_class.build_metric_definitions({})
    assert {name.partition(":('")[0] for name in found} <= set(declared)
    assert set(one.tier.config_info()) == set(tier_class.config_info_keys({}))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"url": "reddis://x"}, InvalidURLError, "reddis"),
        ({"url": ""}, LMCacheConnectError, "url"),
        ({"url": "redis://x?no_such=1"}, InvalidURLError, "no_such"),
        ({"deadlin": 3}, InvalidConfigError, "did you mean 'deadline'"),
        ({"deadline": 0}, InvalidConfigError, "deadline"),
        ({"lookup_deadline": "soon"}, InvalidConfigError, "lookup_deadline"),
        ({"retries": -1}, InvalidConfigError, "retries"),
        ({"identity": {"revison": "x"}}, InvalidConfigError, "revison"),
        ({"identity": {"dtype": "float16"}}, InvalidConfigError, "dtype"),
        ({"identity": {}, "strict_identity": True}, InvalidConfigError, "revision"),
        ({"locality": "NEAR"}, InvalidConfigError, "locality"),
    ],
)
def test_a_wrong_option_is_refused_at_the_start_and_named(
    host: Make, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        host(**{"url": "redis://127.0.0.1:1", **options})


def test_without_a_url_the_environments_is_taken(
    tier_class: Any, names: Any, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidConfigError, match="url"):
        Host(tier_class, names, spec())
    monkeypatch.setenv("LMCACHE_CONNECT_URL", valkey_url)
    one = Host(tier_class, names, spec())
    one.store([1])
    one.close()


def test_what_vllm_does_not_tell_is_shown(host: Make) -> None:
    one = host("redis://127.0.0.1:1", identity={}, of=spec(layout=None))
    assert one.tier.config_info()["lmcache_connect_unknown"] == "kv_layout,revision"
    assert one.tier.config_info()["lmcache_connect_namespace"].startswith("lc1@model@")


def test_memory_of_another_form_is_refused(tier_class: Any) -> None:
    for view in (
        memoryview(bytearray(64)),
        memoryview(bytes(64)).cast("B", (8, 8)),
        memoryview(bytearray(64)).cast("B", (8, 8))[::2],
    ):
        if view.ndim == 1:
            match = "dimension"
        else:
            match = "read-only|contiguous"
        with pytest.raises(LMCacheConnectError, match=match):
            tier_class(offloading_spec=spec(), primary_kv_view=view, tier_type="Tier", url="redis://127.0.0.1:1")


@pytest.mark.parametrize("url", WITH_A_SECRET.values(), ids=WITH_A_SECRET)
def test_a_secret_in_the_url_is_taken_and_warned_of_once(
    host: Make, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    host(url)
    check_warning(caplog, "url")


def test_a_url_that_says_where_the_password_is_or_one_of_the_environment_is_not_warned_of(
    host: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "of the environment")
    monkeypatch.setenv("LMCACHE_CONNECT_URL", WITH_A_SECRET["password"])
    host(WITHOUT)
    host("")
    assert not warnings_of(caplog)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_is_refused_where_no_answer_would_ever_come_and_the_parent_goes_on(host: Make, valkey_url: str) -> None:
    parent = host(valkey_url)
    parent.store([0])
    context = parent.request("r")
    for kind in ("load", "store"):
        assert forked(lambda kind=kind: parent.submit(kind, [key_of(0)], [0], context)) == "ForkedProcessError"
    assert forked(parent.tier.drain_jobs) == "False"
    assert forked(parent.close) == "False"
    assert load(parent, [key_of(0)], [1]) == [True]
    assert parent.read(1) == content_of(0)
