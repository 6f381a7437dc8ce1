"""`lmcache-connect ping --count`: a line for each answer, and a summary."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from lmcache_connect.cli.ping.repeated import Answer, RepeatedPingReport, percentile
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer
from lmcache_connect.testing.servers.process import unused_port

from .conftest import Ran, environment, interruptible, key_count, url_of

QUICK = ("--interval", "1ms")


def test_each_answer_is_a_line_and_the_summary_follows(server: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke("ping", "--count", "3", *QUICK, server.url())
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["1", "2", "3"]
    assert lines[0].endswith(", with connecting")
    assert lines[3].startswith("redis://:***@127.0.0.1:")
    assert lines[4] == "3 sent, 0 lost"
    assert [part.split()[0] for part in lines[5].split(", ")] == ["min", "avg", "max", "p99"]
    assert key_count(server) == 0


def test_json_is_one_document_with_every_answer(server: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    found = json.loads(invoke("ping", "--json", "-c", "2", *QUICK, server.url()).out)
    assert (found["ok"], found["sent"], found["lost"]) == (True, 2, 0)
    assert 0 < found["min_ms"] <= found["avg_ms"] <= found["max_ms"]
    assert [answer["number"] for answer in found["answers"]] == [1, 2]


def test_some_that_are_lost_make_it_1(proxy: FaultProxy, invoke: Callable[..., Ran]) -> None:
    proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT))

    def heal() -> None:
        proxy.wait_fired(50)
        proxy.disarm(drop=True)

    healer = threading.Thread(target=heal)
    healer.start()
    ran = invoke("ping", "--count", "3", *QUICK, url_of(proxy))
    healer.join()
    assert ran.code == 1
    assert "1: lost after" in ran.out
    assert "3 sent, 1 lost (33.3%)" in ran.out


def test_all_that_are_lost_make_it_2(invoke: Callable[..., Ran]) -> None:
    ran = invoke("ping", "--count", "7", *QUICK, f"redis://127.0.0.1:{unused_port()}")
    assert ran.code == 2
    assert ran.out.count("Connection refused") == 7, "each ping asks the store; no breaker answers for it"
    assert "7 sent, 7 lost (100.0%)" in ran.out


def test_ctrl_c_ends_it_with_the_summary(server: ValkeyServer) -> None:
    command = [sys.executable, "-m", "lmcache_connect.cli", "ping", "--interval", "1h", server.url()]
    with (
        interruptible(),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().startswith("1: ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    assert "1 sent, 0 lost" in out
    assert err == ""


def test_the_time_of_connecting_is_no_part_of_the_statistics() -> None:
    answers = tuple(Answer(number, seconds) for number, seconds in enumerate((9.0, 0.2, 0.1), 1))
    assert RepeatedPingReport("s", "ping", answers).times == [0.1, 0.2]
    assert RepeatedPingReport("s", "ping", answers[:1]).times == [9.0]


@pytest.mark.parametrize(("share", "expected"), [(0.99, 99), (1.0, 100), (0.5, 50), (0.0, 1)])
def test_a_percentile_is_one_of_the_times(share: float, expected: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], share) == expected
