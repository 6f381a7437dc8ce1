"""A soak finds what is wrong with a store, and leaves nothing in it."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import replace

import pytest

from lmcache_connect.cli.soak.breakage import proxy_breakages
from lmcache_connect.cli.soak.document import soak_document
from lmcache_connect.cli.soak.place import Place, own_servers, users_store
from lmcache_connect.cli.soak.report import SoakReport
from lmcache_connect.cli.soak.soak import Load, run_soak
from lmcache_connect.errors import InvalidURLError
from lmcache_connect.testing import FaultProxy, ValkeyServer

SHORT = Load(seconds=0.8, seed=5, tasks=4, largest=1 << 20, store_bytes=8 << 20, calm=0.4)


def soak(url: str, load: Load = SHORT, *, is_own: bool = True) -> SoakReport:
    return asyncio.run(run_soak(Place(url, url, is_own=is_own), load))


def lying(name: str) -> str:
    return f"external://host:0/tests.cli.soak.liars/?connector_name={name}"


def test_a_soak_of_a_good_store_is_good_and_leaves_nothing_in_it(valkey_server: ValkeyServer, valkey_url: str) -> None:
    report = soak(valkey_url)
    assert report.ok, report.complaints
    assert report.values > 50
    assert {row.operation for row in report.operations} >= {
        *("put", "get", "put_from", "get_into", "batched_put", "batched_get", "batched_put_from", "batched_get_into"),
        *("exists", "batched_exists", "remove"),
    }
    assert 0 < report.most_bytes <= 8 << 20
    assert report.arena_left == report.keys_left == report.missing == 0
    with valkey_server.client() as client:
        assert not client.dbsize()


def test_keys_in_a_store_of_the_users_are_apart_and_expire(valkey_server: ValkeyServer, valkey_url: str) -> None:
    seen: dict[bytes, int] = {}

    def look(text: str, seconds: int) -> None:
        if text == "removing what was put":
            with valkey_server.client() as client:
                seen.update({name: client.ttl(name) for name in client.scan_iter()})

    place = Place(valkey_url, valkey_url)
    asyncio.run(run_soak(place, replace(SHORT, seconds=0.5), on_progress=look))
    assert seen
    for name, ttl in seen.items():
        assert b"lmcache-connect-soak-" in name
        assert 0 < ttl <= 600


@pytest.mark.parametrize(
    ("liar", "complaint", "finding"),
    [
        ("Flips", "wrong answers", "torn or damaged|not a value|whole|begin"),
        ("MixesUp", "wrong answers", "another key's value"),
        ("Stale", "wrong answers", "expected one of"),
        ("Drops", "no value came back", "nothing has removed it"),
    ],
)
def test_a_store_that_lies_is_found_out(liar: str, complaint: str, finding: str) -> None:
    report = soak(lying(liar))
    assert not report.ok
    assert complaint in " ".join(report.complaints)
    assert re.search(finding, " ".join(report.wrong)), report.wrong
    assert soak_document(report)["ok"] is False


def test_an_honest_connector_of_the_same_kind_is_not_suspected() -> None:
    report = soak(lying("Honest"))
    assert report.ok, (report.complaints, report.wrong, report.unexplained)


def test_an_error_that_no_store_explains_is_found_out() -> None:
    report = soak(lying("Raises"))
    assert "errors that no fault of a store explains" in " ".join(report.complaints)
    assert "ZeroDivisionError" in report.unexplained[0]


def test_tasks_that_are_left_behind_are_found_out() -> None:
    report = soak(lying("Leaks"))
    assert "tasks is not flat" in " ".join(report.complaints)


def test_a_store_that_drops_every_put_of_the_users_is_not_good_either() -> None:
    report = soak(lying("Drops"), is_own=False)
    assert report.complaints == ("no value came back, so nothing was verified",)
    assert report.missing


def test_a_store_that_is_not_there_is_told_at_once(valkey_server: ValkeyServer) -> None:
    with pytest.raises(Exception, match="refused"):
        soak("redis://127.0.0.1:1?connect_timeout=1")


def test_faults_on_the_way_and_of_the_server_are_survived_and_told() -> None:
    with own_servers("valkey", True, random.Random(1)) as place:
        by_kind = {one.kind: one for one in place.breakages}
        kept = [by_kind[kind] for kind in ("reset to client", "flipped bit to client", "kill -9")]
        for one in kept:
            one.longest = 0.6
        done: list[str] = []

        async def run() -> SoakReport:
            stop = asyncio.Event()

            def look(text: str, passed: int) -> None:
                if text:
                    done.append(text)
                elif not passed and set(done) >= {one.kind for one in kept}:  # the last one has ended
                    asyncio.get_running_loop().call_later(0.5, stop.set)

            load = replace(SHORT, seconds=30)  # a busy machine takes its time to restart a server
            return await run_soak(replace(place, breakages=kept), load, stop=stop, on_progress=look)

        report = asyncio.run(run())
    assert report.ok, (report.complaints, report.wrong, report.late, report.unexplained)
    assert {fault.kind for fault in report.faults} == {one.kind for one in kept}
    assert sum(fault.fired or 0 for fault in report.faults)
    assert report.errors
    assert report.stopped


@pytest.mark.asyncio
async def test_a_proxys_faults_never_change_what_goes_to_the_store(valkey_server: ValkeyServer) -> None:
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        kinds = [one.kind for one in proxy_breakages([proxy], finds_damage=True)]
        assert len(set(kinds)) == len(kinds)
        assert not {"flipped bit to server", "extra bytes to server"} & set(kinds)
        assert not [one for one in proxy_breakages([proxy], finds_damage=False) if "bit" in one.kind]


@pytest.mark.parametrize(
    ("url", "through"),
    [
        ("redis://:p%40ss@127.0.0.1:{port}/3?ttl=5", r"redis://:p%40ss@127\.0\.0\.1:\d+/3\?ttl=5"),
        ("hot+valkey://127.0.0.1:{port}", r"hot\+valkey://127\.0\.0\.1:\d+"),
        ("rediss://localhost:{port}?ca_file=x", r"rediss://127\.0\.0\.1:\d+\?ca_file=x&server_name=localhost"),
        ("rediss://localhost:{port}?server_name=a", r"rediss://127\.0\.0\.1:\d+\?server_name=a"),
        ("redis-ring://127.0.0.1:{port},localhost:{port}", r"redis-ring://127\.0\.0\.1:(\d+),127\.0\.0\.1:(?!\1)\d+"),
        (
            "s3://bucket/p?endpoint=http%3A%2F%2F127.0.0.1%3A{port}&region=x",
            r"s3://bucket/p\?endpoint=http%3A%2F%2F127\.0\.0\.1%3A\d+&region=x",
        ),
    ],
)
def test_a_url_is_led_through_a_proxy_for_each_server(valkey_server: ValkeyServer, url: str, through: str) -> None:
    direct = url.format(port=valkey_server.port)
    with users_store(direct, chaos=True) as place:
        assert place.direct == direct
        assert re.fullmatch(through, place.url), place.url
        assert str(valkey_server.port) not in place.url


@pytest.mark.parametrize(
    "url",
    [
        *("redis-cluster://127.0.0.1:1", "redis-sentinel://127.0.0.1:1/kv", "memory://x", "unix:///run/redis.sock"),
        *("s3://bucket?endpoint=https%3A%2F%2Fhost", "s3://bucket", "rediss-ring://a:1,b:2"),
    ],
)
def test_a_store_that_no_proxy_can_stand_in_front_of_is_refused(url: str) -> None:
    with pytest.raises(InvalidURLError, match="--chaos"), users_store(url, chaos=True):
        pass
    with users_store(url, chaos=False) as place:
        assert place.url == url
