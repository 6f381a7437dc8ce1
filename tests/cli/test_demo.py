"""`lmcache-connect demo`, against a real Valkey."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmcache_connect.record import key_of_name
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer

from .conftest import SMALL, Ran, assert_no_secret, environment, interruptible, key_count, run, url_of

KINDS = ["full, 256 tokens", "partial, 100 tokens", "two tensor groups", "4 layers", "1 layer, 32 tokens"]


def test_without_a_url_it_brings_its_own_store(tmp_path: Path) -> None:
    ran = run("demo", *SMALL, env={"TMPDIR": str(tmp_path)})
    assert (ran.code, ran.err) == (0, "")
    assert all(kind in ran.out for kind in KINDS)
    assert "every byte verified" in ran.out
    assert "GB is 10^9 bytes" in ran.out
    assert "valkey://:***@127.0.0.1:" in ran.out
    assert "balance 0 of" in ran.out
    assert list(tmp_path.iterdir()) == [], "the server is gone, and its files"


def test_json_is_one_document_and_nothing_else(server: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke("demo", "--json", "--chunks", "2", "--layers", "1", "--url", server.url())
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert found["ok"] is True
    assert found["problems"] == found["corrupt"] == {}
    assert found["arena"]["balance"] == found["arena"]["objects"] == 0
    assert [kind["name"] for kind in found["kinds"]] == KINDS
    for kind in found["kinds"]:
        # Three rounds of batches, three of single gets, and two chunks of the batch with a gap.
        assert kind["hits"] == kind["expected_hits"] == kind["verified"] == 6 * kind["count"] + 2
        assert kind["misses"] == kind["expected_misses"] == 3
        assert kind["put_bytes_per_second"] > 0
        assert kind["get_bytes_per_second"] > 0
        assert kind["get_p50_seconds"] > 0
    assert found["kinds"][0]["shapes"] == [[2, 1, 256, 1024]]
    assert found["kinds"][2]["dtypes"] == ["bfloat16", "fp8_e4m3fn"]
    assert found["bytes_put"] == sum(4 * kind["count"] * kind["chunk_bytes"] for kind in found["kinds"])
    assert found["bytes_got"] == sum(kind["hits"] * kind["chunk_bytes"] for kind in found["kinds"])
    assert found["keys"] == {"written": 22, "removed": 22}


def test_it_removes_what_it_wrote_and_nothing_of_anybody_elses(
    server: ValkeyServer, invoke: Callable[..., Ran]
) -> None:
    with server.client() as client:
        client.set("lmcache-connect-demo", "somebody else's")
        assert invoke("demo", *SMALL, "--url", server.url()).code == 0
        assert client.keys("*") == [b"lmcache-connect-demo"]
        assert client.get("lmcache-connect-demo") == b"somebody else's"


def test_keep_leaves_its_keys_under_the_model_that_it_names(server: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke("demo", *SMALL, "--keep", "--json", "--url", server.url())
    found = json.loads(ran.out)
    assert (ran.code, found["keys"]) == (0, {"written": 12, "removed": 0})
    with server.client() as client:
        keys = [key_of_name("", name.decode()) or "" for name in client.scan_iter()]
        assert len(keys) == 12
        assert all(key.startswith(found["model_name"] + "@1@0@") for key in keys)
    again = invoke("demo", *SMALL, "--url", server.url())
    assert again.code == 0
    assert key_count(server) == 12, "a second run has keys of its own"


def test_keep_without_a_url_is_refused(invoke: Callable[..., Ran]) -> None:
    ran = invoke("demo", *SMALL, "--keep")
    assert ran.code == 2
    assert "needs a URL" in ran.err


def test_the_environments_url_is_for_ping_alone(
    server: ValkeyServer, invoke: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_URL", server.url())
    ran = invoke("demo", *SMALL, "--json")
    assert str(server.port) not in json.loads(ran.out)["store"], "nobody asked for a demo in that store"


@pytest.mark.parametrize("direction", Direction)
def test_a_bit_that_flips_on_the_way_makes_it_fail(
    server: ValkeyServer, proxy: FaultProxy, invoke: Callable[..., Ran], direction: Direction
) -> None:
    proxy.arm(Fault(FaultKind.FLIP, direction, after_bytes=500_000, count=1))
    ran = invoke("demo", *SMALL, "--json", "--url", url_of(proxy))
    found = json.loads(ran.out)
    assert proxy.fired == 1
    assert (ran.code, found["ok"]) == (1, False)
    assert found["corrupt"] == {"checksum": 1}
    assert "full, 256 tokens: a chunk that was put is a miss" in found["problems"]
    assert found["arena"]["balance"] == 0
    assert [kind["ok"] for kind in found["kinds"]] == [False, True, True, True, True]
    assert key_count(server) == 0


def test_a_bit_that_no_checksum_sees_is_seen_by_the_comparison(
    server: ValkeyServer, proxy: FaultProxy, invoke: Callable[..., Ran]
) -> None:
    proxy.arm(Fault(FaultKind.FLIP, after_bytes=500_000, count=1))
    ran = invoke("demo", *SMALL, "--url", url_of(proxy, "?checksum=false"))
    assert proxy.fired == 1
    assert ran.code == 1
    assert "a chunk came back with other bytes, first at byte" in ran.out
    assert "NOT verified" in ran.out
    assert "7/8" in ran.out
    assert key_count(server) == 0


def test_a_store_that_goes_away_is_one_line_and_says_what_may_be_left(
    server: ValkeyServer, proxy: FaultProxy, invoke: Callable[..., Ran]
) -> None:
    proxy.arm(Fault(FaultKind.CLOSE, Direction.TO_SERVER, after_bytes=2_000_000))
    ran = invoke("demo", *SMALL, "--url", url_of(proxy, "?retries=0"))
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert sum(line.startswith("error: ") for line in ran.err.splitlines()) == 1
    assert key_count(server) == 0, "the store could still be reached to clean up"


def test_a_full_store_is_cleaned_up(invoke: Callable[..., Ran]) -> None:
    with ValkeyServer(maxmemory="12mb") as server:
        refused = invoke("demo", "--chunks", "8", "--layers", "4", "--url", server.url())
        assert refused.code == 2
        assert "would lie there at a time: chunks of others would be evicted, or puts refused; give --chunks 1, or" in (
            refused.err
        )
        ran = invoke("demo", "--chunks", "8", "--layers", "4", "--anyway", "--url", server.url())
        assert ran.code == 2
        assert "memory" in ran.err
        assert key_count(server) == 0


# --------------------------------------------------------------------------------------------------- interruption


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    with interruptible():
        return subprocess.Popen(
            [sys.executable, "-m", "lmcache_connect.cli.main", "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment({"TMPDIR": str(tmp_path)}),
        )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ports(folder: Path) -> Iterator[int]:
    for conf in folder.glob("lmcc-*/conf"):
        for line in conf.read_text(encoding="utf-8").splitlines():
            if line.startswith("port "):
                yield int(line.removeprefix("port "))


def test_the_tests_of_interrupts_hold_where_the_shell_around_them_ignores_interrupts() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            process = subprocess.Popen(["sleep", "20"])
    finally:
        signal.signal(signal.SIGINT, before)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_stops_the_embedded_server(tmp_path: Path, number: int, code: int) -> None:
    process = start(tmp_path, "--chunks", "4")
    wait_for(lambda: any(map(listens, ports(tmp_path))))
    (port,) = ports(tmp_path)
    time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in err
    assert not listens(port)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_removes_what_was_written(tmp_path: Path, server: ValkeyServer) -> None:
    process = start(tmp_path, "--chunks", "4", "--url", server.url())
    wait_for(lambda: key_count(server) >= 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert_no_secret(out, err)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert key_count(server) == 0
