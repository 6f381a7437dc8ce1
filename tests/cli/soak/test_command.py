"""`lmcache-connect soak` as it is typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcache_connect.testing import ValkeyServer

from ..conftest import Ran, environment, interruptible

SMALL = ("--minutes", "0.025", "--largest", "256KiB", "--store-bytes", "8MiB", "--seed", "3")


def stored(server: ValkeyServer) -> int:
    with server.client() as client:
        return int(client.dbsize())


def test_a_run_with_json_is_one_document(server: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke("soak", server.url(), *SMALL, "--json", "--chaos")
    found = json.loads(ran.out)
    assert ran.code == 0, found
    assert ran.err == ""
    assert found["ok"] is True
    assert found["complaints"] == []
    assert found["values_verified"] > 20
    assert found["process"]["descriptors"]["flat"] is True
    assert found["seed"] == 3
    assert found["chaos"] is True
    assert found["store"] == f"redis://:***@127.0.0.1:{server.port}"
    assert found["timeline"]
    assert stored(server) == 0


def test_a_store_with_too_little_room_is_not_filled_and_one_that_is_full_is_not_good(
    invoke: Callable[..., Ran],
) -> None:
    with ValkeyServer(maxmemory="9mb") as small:
        refused = invoke("soak", small.url(), *SMALL)
        assert refused.code == 2
        assert "would lie there at a time: chunks of others would be evicted, or puts refused; give --store-bytes" in (
            refused.err
        )
        with small.client() as client:
            for number in range(6):
                client.set(f"theirs-{number}", b"x" * (1 << 20))
        ran = invoke("soak", small.url(), *SMALL, "--anyway", "--json")
        found = json.loads(ran.out)
        assert ran.code == 1
        assert any("the store was full, and refused" in text for text in found["complaints"])
        assert stored(small) == 6


def test_ctrl_c_gives_the_report_so_far_and_leaves_nothing(server: ValkeyServer) -> None:
    command = [sys.executable, "-m", "lmcache_connect.cli.main", "soak", server.url(), "--minutes", "10"]
    with interruptible():
        process = subprocess.Popen(
            [*command, "--largest", "256KiB"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment({"COLUMNS": "40"}),
        )
    try:
        deadline = time.monotonic() + 40
        while stored(server) < 20:  # some of them were read by then
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=40)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "(stopped early)" in out
    assert "no wrong value" in out
    assert "Traceback" not in err
    assert stored(server) == 0
    assert all(len(line) <= 40 for line in out.splitlines() if not line.startswith("good: "))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--server", "oracle"), "expected valkey, redis"),
        (("--server", "valkey", "redis://x"), "give one of them"),
        (("redis://x", "--largest", "1KiB"), "at least 64KiB"),
        (("redis://x", "--plot", "picture.jpg"), "expected a name with .png or .svg"),
        (("redis://x", "--plot", "/nowhere/at/all.png"), "expected one that exists"),
        (("redis-cluster://x", "--chaos"), "--chaos cannot stand in the way"),
        (("redis://127.0.0.1:1",), "refused"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_started(
    invoke: Callable[..., Ran], arguments: tuple[str, ...], told: str
) -> None:
    ran = invoke("soak", *arguments)
    assert ran.code == 2
    assert told in " ".join(ran.err.split())
    assert not ran.out


def test_a_picture_is_drawn_or_its_extra_is_named_before_the_run(
    server: ValkeyServer, invoke: Callable[..., Ran], tmp_path: Path
) -> None:
    path = tmp_path / "soak.svg"
    ran = invoke("soak", server.url(), *SMALL, "--plot", str(path))
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert ran.code == 2
        assert "lmcache-connect[plot]" in ran.err
        return
    assert ran.code == 0
    text = path.read_text(encoding="utf-8")
    assert text.lstrip().startswith("<?xml")
    assert "canary" not in text
