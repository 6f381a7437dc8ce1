"""`lmcache-connect cp`: what is at the source is at the destination afterwards, or the summary says why not."""

from __future__ import annotations

import asyncio
import json
import math
import os
import resource
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from lmcache_connect import ConnectorManager
from lmcache_connect.cli.copy.copying import CopyPlan, CopyReport, copy_chunks
from lmcache_connect.cli.copy.tally import Outcome
from lmcache_connect.cli.store.selection import Selection
from lmcache_connect.contract import KeyFacts
from lmcache_connect.errors import InvalidArgumentError, StoreFullError, StoreUnavailableError
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, RcloneServer, ValkeyServer
from lmcache_connect.testing.servers.redis_store import RedisStore

from ..conftest import Ran, environment, interruptible, url_of
from .conftest import engine_key, fill, raw

Invoke = Callable[..., Ran]

MEMORY: Final = 64 << 20
LARGE: Final = engine_key("acme", "bb")


@pytest.fixture
def destination(valkey_url: str) -> str:
    """Another server, which is empty."""
    return valkey_url


@pytest.fixture
def bucket(rclone_server: RcloneServer) -> str:
    """A place of the test's own in a bucket."""
    return rclone_server.url(prefix=secrets.token_hex(6))


def copied(source: str, destination: str, **more: Any) -> CopyReport:
    """The report of a copy in this process."""

    async def run() -> CopyReport:
        plan = CopyPlan(source, destination, **{"memory": MEMORY, "wait": 0.2, **more})
        return await copy_chunks(plan, asyncio.Event(), lambda _done, _found, _is_listed: None)

    return asyncio.run(run())


def held(url: str) -> dict[str, bytes]:
    """All chunks of a store, by key."""

    async def read() -> dict[str, bytes]:
        async with ConnectorManager(url, config={"max_local_cpu_bytes": MEMORY}) as manager:
            connector = manager.create_connector()
            found = {}
            async for key in connector.scan():
                chunk = await connector.get(key)
                assert chunk is not None, key
                with chunk, chunk.byte_array as view:
                    found[key] = bytes(view)
            return found

    return asyncio.run(read())


def facts(url: str, key: str) -> KeyFacts:
    async def ask() -> KeyFacts:
        async with ConnectorManager(url, config={"max_local_cpu_bytes": 1 << 20}) as manager:
            [found] = await manager.create_connector().describe([key])
            assert found is not None
            return found

    return asyncio.run(ask())


# -------------------------------------------------------------------------------------------- kinds of stores


@pytest.fixture(params=["s3", "redis with a prefix", "lmcache's layout", "ring", "spread", "memory", "hot"])
def any_destination(request: pytest.FixtureRequest) -> str:
    kind = request.param
    if kind == "s3":
        return str(request.getfixturevalue("bucket"))
    if kind == "memory":
        return f"memory://copies-{secrets.token_hex(6)}"
    if kind in {"ring", "spread"}:
        ring: RedisStore = request.getfixturevalue("redis_ring")
        return ring.url(options={"spread": "3"} if kind == "spread" else None)
    server: ValkeyServer = request.getfixturevalue("valkey_server")
    server.flush()
    if kind == "hot":
        return server.url().replace("redis://", "hot+redis://")
    return server.url(options={"layout": "lmcache"} if "layout" in kind else {"prefix": "copy"})


def test_a_copy_holds_what_the_source_holds_and_a_second_one_moves_nothing(
    url: str, chunks: dict[str, bytes], any_destination: str
) -> None:
    first = copied(url, any_destination, verify=True)
    assert first.ok
    assert (first.tally.keys[Outcome.COPIED], first.tally.verified) == (5, 5)
    if not any_destination.startswith("memory"):
        assert held(any_destination) == chunks
    second = copied(url, any_destination)
    assert second.ok
    assert (second.tally.keys[Outcome.COPIED], second.tally.keys[Outcome.SKIPPED]) == (0, 5)
    back = url + "?prefix=back"
    assert copied(any_destination, back).ok
    assert held(back) == chunks


def test_keys_are_chosen_by_prefix_or_pattern(url: str, chunks: dict[str, bytes], destination: str) -> None:
    assert copied(url, destination, selection=Selection.of("lc1@*@aa")).ok
    assert set(held(destination)) == {key for key in chunks if key.startswith("lc1@") and key.endswith("@aa")}


def test_a_dry_run_writes_nothing(url: str, destination: str, valkey_server: ValkeyServer) -> None:
    report = copied(url, destination, dry_run=True)
    assert report.tally.keys[Outcome.COPIED] == 5
    with valkey_server.client() as client:
        assert client.dbsize() == 0


def test_a_store_is_not_copied_into_itself(url: str, invoke: Invoke) -> None:
    with pytest.raises(InvalidArgumentError):
        copied(url, url)
    assert invoke("cp", url, url).code == 2


# -------------------------------------------------------------------------------------------- what is there


def test_other_content_stays_unless_it_is_to_be_replaced(url: str, destination: str, invoke: Invoke) -> None:
    fill(destination, {LARGE: b"z" * (5 << 20), engine_key("acme", "aa"): b"of another length"})
    ran = invoke("cp", url, destination, "--json")
    assert ran.code == 1
    document = json.loads(ran.out)
    assert (document["ok"], document["differs"]["keys"], document["copied"]["keys"]) == (False, 2, 3)
    reasons = {each["key"]: each["reason"] for each in document["differs"]["examples"]}
    assert "other bytes" in reasons[LARGE]
    assert "another shape" in reasons[engine_key("acme", "aa")]
    assert held(destination)[LARGE] == b"z" * (5 << 20)
    report = copied(url, destination, overwrite=True)
    assert report.ok
    assert (report.tally.keys[Outcome.COPIED], report.tally.replaced) == (2, 2)
    assert held(destination) == held(url)


def test_content_is_compared_also_where_the_checksums_cannot_be(url: str, bucket: str) -> None:
    assert copied(url, bucket).ok
    fill(bucket, {LARGE: b"z" * (5 << 20)})  # one checksum there, and six here
    report = copied(url, bucket)
    assert report.tally.keys[Outcome.DIFFERS] == 1
    assert copied(url, bucket, overwrite=True).tally.replaced == 1
    assert held(bucket) == held(url)


def test_a_damaged_record_of_the_source_is_told_and_stays(
    url: str, server: ValkeyServer, chunks: dict[str, bytes], destination: str
) -> None:
    [name] = chunk_names("", [engine_key("acme", "aa")])
    with server.client() as client:
        record = raw(client, name)
        record[-20] ^= 1
        client.set(name, bytes(record))
        report = copied(url, destination)
        assert client.get(name) == bytes(record)
    assert not report.ok
    assert report.is_complete
    [example] = report.tally.examples[Outcome.DAMAGED]
    assert example.key == engine_key("acme", "aa")
    assert "checksum" in example.why
    assert len(held(destination)) == len(chunks) - 1


def test_a_damaged_record_of_the_destination_is_found_by_reading_it_back(
    url: str, destination: str, valkey_server: ValkeyServer
) -> None:
    assert copied(url, destination).ok
    [name] = chunk_names("", [engine_key("acme", "aa")])
    with valkey_server.client() as client:
        record = raw(client, name)
        record[-20] ^= 1  # its header and its checksum are as they were
        client.set(name, bytes(record))
    assert copied(url, destination).ok
    report = copied(url, destination, verify=True)
    assert not report.ok
    assert report.tally.keys[Outcome.DIFFERS] == 1
    mended = copied(url, destination, verify=True, overwrite=True)
    assert mended.ok
    assert (mended.tally.keys[Outcome.COPIED], mended.tally.verified) == (1, 5)


# ------------------------------------------------------------------------------------------------ expiries


def test_a_chunk_keeps_the_time_that_it_has_left(url: str, destination: str) -> None:
    report = copied(url, destination)
    assert report.tally.ttls_set == 1
    assert 7000 < (facts(destination, engine_key("other", "aa")).ttl or 0) <= 7200
    assert facts(destination, LARGE).ttl == math.inf


def test_a_time_to_live_that_an_earlier_run_did_not_set_is_set(
    url: str, destination: str, valkey_server: ValkeyServer
) -> None:
    assert copied(url, destination).ok
    with valkey_server.client() as client:
        client.persist(chunk_names("", [engine_key("other", "aa")])[0])
    assert copied(url, destination).tally.keys[Outcome.SKIPPED] == 5
    assert 7000 < (facts(destination, engine_key("other", "aa")).ttl or 0) <= 7200


def test_a_time_to_live_may_be_given_for_all(url: str, destination: str) -> None:
    assert copied(url, destination, ttl=60.0).tally.ttls_set == 5
    assert 50 < (facts(destination, LARGE).ttl or 0) <= 60


def test_a_destination_that_forgets_nothing_is_told_of(url: str, bucket: str, invoke: Invoke) -> None:
    ran = invoke("cp", url, bucket)
    assert ran.code == 0
    assert "1 chunk will stay, and not expire as at the source" in ran.out
    assert invoke("cp", url, bucket, "--ttl", "1h").code == 2


# ------------------------------------------------------------------------------- what ends it, and what fails


def test_a_copy_that_is_stopped_ends_cleanly_and_a_further_one_goes_on(
    url: str, chunks: dict[str, bytes], destination: str
) -> None:
    fill(url, {f"more {number}": os.urandom(4000) for number in range(400)})

    async def run() -> CopyReport:
        stop = asyncio.Event()

        def on_progress(done: int, _found: int, _is_listed: bool) -> None:
            if done:
                stop.set()

        return await copy_chunks(CopyPlan(url, destination, memory=MEMORY, parallel=1), stop, on_progress)

    report = asyncio.run(run())
    assert (report.ok, report.is_complete, report.is_stopped, report.error) == (False, False, True, None)
    assert 0 < len(held(destination)) < 405
    rest = copied(url, destination)
    assert rest.ok
    assert rest.tally.keys[Outcome.SKIPPED] == report.tally.keys[Outcome.COPIED]
    assert held(destination) == held(url)


def test_ctrl_c_prints_the_summary_and_how_to_go_on(url: str, destination: str) -> None:
    fill(url, {f"more {number}": os.urandom(1 << 20) for number in range(30)})
    command = [sys.executable, "-m", "lmcache_connect.cli.main", "cp", url, destination, "--rate", "8MB/s"]
    with interruptible():
        process = subprocess.Popen(
            [*command, "--parallel", "1", "--memory", "8MiB"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
    try:
        with ConnectorManager(destination, config={"max_local_cpu_bytes": 1 << 20}) as manager:
            connector = manager.create_connector()
            while not any(connector.sync.batched_exists([f"more {number}" for number in range(30)], timeout=20)):
                assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "run the same command again to go on" in out
    assert "Traceback" not in err
    assert copied(url, destination).ok
    assert held(destination) == held(url)


def test_a_connection_that_breaks_costs_a_repetition(
    url: str, server: ValkeyServer, proxy: FaultProxy, destination: str
) -> None:
    proxy.arm(Fault(FaultKind.RESET, Direction.TO_CLIENT, after_bytes=2 << 20))

    def heal() -> None:
        proxy.wait_fired(20)
        proxy.disarm()

    healing = threading.Thread(target=heal)
    healing.start()
    report = copied(url_of(proxy), destination, wait=20.0)
    healing.join()
    assert proxy.fired
    assert report.ok
    assert held(destination) == held(url)


def test_a_store_that_fails_for_long_ends_the_copy_and_tells_what_there_is(
    valkey_server: ValkeyServer, url: str, destination: str
) -> None:
    fill(url, {f"more {number}": os.urandom(4000) for number in range(1000)})
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        through = f"redis://{proxy.host}:{proxy.port}?retries=0"

        async def run() -> CopyReport:
            def on_progress(done: int, _found: int, _is_listed: bool) -> None:
                if done:
                    proxy.stop()

            plan = CopyPlan(url, through, memory=MEMORY, wait=0.2, parallel=1)
            return await copy_chunks(plan, asyncio.Event(), on_progress)

        report = asyncio.run(run())
    assert isinstance(report.error, StoreUnavailableError)
    assert (report.ok, report.is_complete) == (False, False)
    assert copied(url, destination).ok
    assert held(destination) == held(url)


def test_a_destination_that_is_full_ends_the_copy(url: str) -> None:
    with ValkeyServer(config={"maxmemory": "3mb", "maxmemory-policy": "noeviction"}) as full:
        fill(url, {f"more {number}": os.urandom(100_000) for number in range(40)})
        report = copied(url, full.url(), parallel=1)
        assert isinstance(report.error, StoreFullError)
        assert not report.ok


def test_a_key_that_the_destination_cannot_have_costs_itself_alone(url: str, bucket: str) -> None:
    long = "k" * 1500
    fill(url, {long: b"too long a name for S3"})
    report = copied(url, bucket)
    assert [example.key for example in report.tally.examples[Outcome.FAILED]] == [long]
    assert report.tally.keys[Outcome.COPIED] == 5


def test_a_chunk_that_the_destination_cannot_hold_costs_itself_alone(url: str, valkey_server: ValkeyServer) -> None:
    valkey_server.flush()
    small = valkey_server.url(options={"max_value_bytes": "2000", "stripe": "0"})
    report = copied(url, small)
    assert {example.key for example in report.tally.examples[Outcome.FAILED]} == {LARGE, engine_key("other", "aa")}
    assert report.tally.keys[Outcome.COPIED] == 3


def test_a_chunk_that_is_larger_than_the_memory_is_told(url: str, destination: str) -> None:
    report = copied(url, destination, memory=1 << 20)
    [example] = report.tally.examples[Outcome.FAILED]
    assert example.key == LARGE
    assert "--memory" in example.why
    assert report.tally.keys[Outcome.COPIED] == 4


# ---------------------------------------------------------------------------------------------- the state file


@pytest.fixture
def noted(url: str, bucket: str, tmp_path: Path) -> Path:
    """The state file of a copy whose checksums are of other parts at the destination."""
    state = tmp_path / "state"
    assert copied(url, bucket, state=state).ok
    return state


def test_a_state_file_spares_the_payloads_of_what_was_copied(url: str, bucket: str, noted: Path) -> None:
    assert copied(url, bucket).tally.by_state == 0
    report = copied(url, bucket, state=noted)
    assert report.ok
    assert (report.tally.by_state, report.tally.keys[Outcome.SKIPPED]) == (1, 5)


def test_a_state_file_is_not_believed_where_a_record_has_changed(url: str, bucket: str, noted: Path) -> None:
    fill(url, {LARGE: b"y" * (5 << 20)})
    report = copied(url, bucket, state=noted)
    assert (report.tally.by_state, report.tally.keys[Outcome.DIFFERS]) == (0, 1)


def test_a_state_file_that_was_cut_off_costs_a_comparison_alone(url: str, bucket: str, noted: Path) -> None:
    noted.write_bytes(noted.read_bytes()[:-40])
    assert copied(url, bucket, state=noted).ok
    assert copied(url, bucket, state=noted).tally.by_state == 1


def test_a_state_file_of_another_copy_is_refused(url: str, destination: str, noted: Path, invoke: Invoke) -> None:
    ran = invoke("cp", url, destination, "--state", str(noted))
    assert ran.code == 2
    assert "not the state file of this copy" in ran.err


def test_a_state_file_that_cannot_grow_ends_the_copy(url: str, destination: str, tmp_path: Path) -> None:
    fill(url, {f"k{number}": b"x" * 4000 for number in range(400)})  # more windows than the lister may be ahead
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def no_room(*_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))

    async def copy() -> None:
        plan = CopyPlan(url, destination, Selection("k"), memory=1 << 20, parallel=64, state=tmp_path / "state")
        async with asyncio.timeout(30) as timer:
            try:
                await copy_chunks(plan, asyncio.Event(), no_room)
            finally:
                assert not timer.expired()

    try:
        with pytest.raises(OSError, match="too large"):
            asyncio.run(copy())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_time_to_live_that_a_store_would_refuse_is_refused_before_anything_is_copied(
    url: str, destination: str, invoke: Invoke
) -> None:
    ran = invoke("cp", url, destination, "--ttl", "999999999999d")
    assert ran.code == 2
    assert "at most ten years" in ran.err
    assert invoke("ls", destination).out == ""


def test_a_state_file_with_nonsense_costs_a_comparison_alone(url: str, bucket: str, noted: Path) -> None:
    with noted.open("a") as state:
        state.write("[" * 100_000 + "\n")
    assert copied(url, bucket, state=noted).ok
