"""Which jobs begin when: loads before stores, few stores at a time, and none where too many bytes wait."""

from __future__ import annotations

import logging
from collections.abc import Callable
from uuid import uuid4

import pytest

from lmcache_connect.engines.job_line import MOST_STORES
from lmcache_connect.engines.jobs import JobPort
from lmcache_connect.oversight import ManagerMetrics

from .conftest import OpenPort
from .gated_store import GATES, Gates, caught_up

MIB = 1 << 20

Gated = Callable[..., tuple[JobPort, Gates]]


@pytest.fixture
def open_gated(open_port: OpenPort) -> Gated:
    def make(**settings: object) -> tuple[JobPort, Gates]:
        name = uuid4().hex
        GATES[name] = Gates()
        port = open_port(f"gated://{name}", **{"deadline": 20, "trusted_modules": ("*",), **settings})
        return port, GATES[name]

    return make


def load(port: JobPort, key: str) -> int:
    return port.submit_get([key], [bytearray(8)])


def store(port: JobPort, key: str, size: int = 8) -> int:
    return port.submit_put([key], [bytes(size)])


def test_stores_wait_while_a_load_is_under_way(open_gated: Gated) -> None:
    port, gates = open_gated()
    jobs = [load(port, "l1")]
    assert gates.wait_begun("l1")
    jobs += [store(port, "s1"), load(port, "l2"), store(port, "s2")]
    assert gates.wait_begun("l2")
    caught_up(port)
    assert gates.begun == ["l1", "l2"]
    gates.let_go_on("l1")
    assert port.wait(jobs[0], 10) is not None
    caught_up(port)
    assert gates.begun == ["l1", "l2"]
    gates.let_go_on("*")
    assert gates.wait_begun("s1", "s2")
    assert [port.wait(job) is not None for job in jobs[1:]] == [True] * 3
    assert gates.begun == ["l1", "l2", "s1", "s2"]


def test_loads_of_one_port_go_before_stores_of_another_on_the_same_store(
    open_gated: Gated, open_port: OpenPort
) -> None:
    port, gates = open_gated()
    url = f"gated://{next(name for name, each in GATES.items() if each is gates)}"
    other = open_port(url, deadline=20, trusted_modules=("*",))
    assert other.connector is port.connector
    load(port, "l1")
    assert gates.wait_begun("l1")
    job = store(other, "s1")
    caught_up(other)
    assert gates.begun == ["l1"]
    gates.let_go_on("*")
    result = other.wait(job)
    assert result is not None
    assert result.ok


def test_a_store_that_has_waited_for_a_quarter_of_its_time_begins_beside_loads(open_gated: Gated) -> None:
    port, gates = open_gated()
    load(port, "l1")
    assert gates.wait_begun("l1")
    port.submit_put(["s1"], [bytes(8)], deadline=1.0)
    assert gates.wait_begun("s1")
    assert gates.begun == ["l1", "s1"]
    gates.let_go_on("*")


def test_few_stores_are_under_way_at_the_same_time(open_gated: Gated) -> None:
    port, gates = open_gated()
    names = [f"s{number}" for number in range(MOST_STORES + 3)]
    jobs = [store(port, name) for name in names]
    assert gates.wait_begun(*names[:MOST_STORES])
    caught_up(port)
    assert gates.begun == names[:MOST_STORES]
    gates.let_go_on(names[1])
    assert gates.wait_begun(names[MOST_STORES])
    assert gates.begun == names[: MOST_STORES + 1]
    gates.let_go_on("*")
    assert all(port.wait(job) is not None for job in jobs)
    assert gates.begun == names


def test_a_load_begins_also_where_stores_are_under_way_and_look_ups_wait_for_nothing(open_gated: Gated) -> None:
    port, gates = open_gated()
    for number in range(MOST_STORES + 1):
        store(port, f"s{number}")
    assert gates.wait_begun("s0")
    load(port, "l1")
    assert gates.wait_begun("l1")
    found = port.wait(port.submit_exists(["k"]))
    assert found is not None
    assert found.ok
    gates.let_go_on("*")


def test_stores_are_shed_and_counted_when_too_many_bytes_wait(
    open_gated: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "lmcache_connect")
    port, gates = open_gated(max_waiting_store_bytes="2MiB")
    load(port, "l1")
    assert gates.wait_begun("l1")
    kept = [store(port, f"s{number}", MIB) for number in range(2)]
    shed = [store(port, f"x{number}", MIB) for number in range(30)]
    for job in shed:
        result = port.wait(job, 0)
        assert result is not None
        assert (result.flags, result.reason, result.seconds < 1) == ((False,), "shed", True)
        assert result.error is not None
        assert "2097152 bytes of stores wait already" in result.error
    counted = port.statistics()
    assert (counted.shed_jobs, counted.shed_bytes, counted.waiting_store_bytes) == (30, 30 * MIB, 2 * MIB)
    assert counted.kinds["put"].failures == {"shed": 30}
    assert len([record for record in caplog.records if "engine_stores_shed" in record.message]) == 10
    lines = ManagerMetrics(port.manager).render()[0].decode().splitlines()
    for sample in (
        "lmcache_connect_job_waiting_store_bytes 2.097152e+06",
        "lmcache_connect_job_shed_stores_total 30.0",
        'lmcache_connect_jobs_in_flight{kind="put"} 2.0',
        'lmcache_connect_jobs_total{kind="put",outcome="shed"} 30.0',
    ):
        assert sample in lines
    gates.let_go_on("*")
    assert all(port.wait(job) is not None for job in kept)
    assert port.statistics().waiting_store_bytes == 0
    result = port.wait(store(port, "later", MIB))
    assert result is not None
    assert result.ok


def test_one_store_may_be_larger_than_what_may_wait(open_gated: Gated) -> None:
    port, gates = open_gated(max_waiting_store_bytes=10)
    gates.let_go_on("*")
    result = port.wait(store(port, "s", MIB))
    assert result is not None
    assert result.ok


def test_a_store_whose_time_is_up_while_it_waits_never_begins(open_gated: Gated) -> None:
    port, gates = open_gated()
    for number in range(MOST_STORES):
        store(port, f"s{number}")
    assert gates.wait_begun(*(f"s{number}" for number in range(MOST_STORES)))
    result = port.wait(port.submit_put(["late"], [bytes(8)], deadline=0.2))
    assert result is not None
    assert result.reason == "deadline"
    gates.let_go_on("*")
    last = port.wait(store(port, "last"))
    assert last is not None
    assert "late" not in gates.begun


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("another"), OSError(5, "a driver's")])
def test_what_a_connector_raises_becomes_a_failure_by_its_class_and_is_told_at_a_bounded_rate(
    open_gated: Gated, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    caplog.set_level(logging.WARNING, "lmcache_connect")
    port, gates = open_gated(retries=0, breaker_failures=10_000)
    gates.fails_with = error
    gates.let_go_on("*")
    results = [port.wait(load(port, f"l{number}")) for number in range(50)]
    assert {result.flags for result in results if result is not None} == {(False,)}
    expected = "StoreUnavailableError" if isinstance(error, OSError) else "ConnectorFailureError"
    assert {result.reason for result in results if result is not None} == {expected}
    assert port.statistics().kinds["get"].failures == {expected: 50}
    assert 1 <= len(caplog.records) <= 10


def test_regions_that_overlap_are_a_failure_that_says_so(open_gated: Gated, caplog: pytest.LogCaptureFixture) -> None:
    port, gates = open_gated()
    gates.let_go_on("*")
    memory = bytearray(16)
    results = [port.wait(port.submit_get(["a", "b"], [memory, memory])) for _ in range(30)]
    assert {result.reason for result in results if result is not None} == {"InvalidArgumentError"}
    told = [record for record in caplog.records if record.message.startswith("engine_job_failed")]
    assert len(told) == 10
    assert "share 16 bytes" in told[0].message
