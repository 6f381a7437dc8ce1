"""Many threads use one port: every job has exactly one result, and it is the right one."""

from __future__ import annotations

import random
import select
import sys
import threading
from collections.abc import Iterator
from typing import Final

import pytest

from lmcache_connect.engines.jobs import JobPort, JobResult
from lmcache_connect.errors import ConnectorClosedError, InvalidArgumentError

from .conftest import OpenPort

SIZE: Final = 2000
KEYS: Final = 12


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


class Crew:
    """Threads that submit jobs, and others that drain or wait."""

    def __init__(self, port: JobPort, submitters: int, jobs: int) -> None:
        self.port = port
        self.results: list[JobResult] = []
        self.expected: dict[int, tuple[bool, ...]] = {}
        self.loaded: dict[int, tuple[list[int], list[bytearray]]] = {}
        self.failures: list[BaseException] = []
        self.all_submitted = threading.Event()
        self._submitters = [
            threading.Thread(target=self._guarded, args=(self._submit, seed, jobs)) for seed in range(submitters)
        ]
        self._drainers = [threading.Thread(target=self._guarded, args=(self._drain,)) for _ in range(2)]

    def run(self) -> None:
        for thread in [*self._submitters, *self._drainers]:
            thread.start()
        for thread in self._submitters:
            thread.join(40)
        self.all_submitted.set()
        for thread in self._drainers:
            thread.join(40)
            assert not thread.is_alive()

    def _guarded(self, call: object, *args: int) -> None:
        try:
            call(*args)  # type: ignore[operator]
        except BaseException as error:
            self.failures.append(error)

    def _submit(self, seed: int, jobs: int) -> None:
        chance = random.Random(seed)
        for _ in range(jobs):
            numbers = [chance.randrange(KEYS + 3) for _ in range(chance.randrange(1, 5))]
            keys = [f"k{number}" for number in numbers]
            there = tuple(number < KEYS for number in numbers)
            match chance.randrange(3):
                case 0:
                    into = [bytearray(SIZE) for _ in keys]
                    job = self.port.submit_get(keys, into)
                    self.loaded[job] = (numbers, into)
                case 1:
                    job = self.port.submit_exists(keys)
                case _:
                    stored = [number for number in numbers if number < KEYS]
                    job = self.port.submit_put([f"k{n}" for n in stored], [content(n) for n in stored])
                    there = (True,) * len(stored)
            self.expected[job] = there
            if chance.random() < 0.3:
                try:
                    if (result := self.port.wait(job, 20)) is not None:
                        self.results.append(result)
                except InvalidArgumentError:
                    pass  # a drainer was faster

    def _drain(self) -> None:
        while not (self.all_submitted.is_set() and len(self.results) >= len(self.expected)):
            select.select([self.port.event_fd], [], [], 0.05)
            self.results.extend(self.port.drain())


def test_each_job_of_many_threads_has_one_result_and_the_right_one(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url, deadline=30)
    first = port.wait(port.submit_put([f"k{n}" for n in range(KEYS)], [content(n) for n in range(KEYS)]))
    assert first is not None
    assert first.ok
    crew = Crew(port, submitters=6, jobs=60)
    crew.run()
    assert crew.failures == []
    assert sorted(result.id for result in crew.results) == sorted(crew.expected)
    for result in crew.results:
        assert (result.flags, result.error) == (crew.expected[result.id], None)
        if result.kind == "get":
            numbers, into = crew.loaded[result.id]
            assert all(
                bytes(buffer) == content(number) for number, buffer in zip(numbers, into, strict=True) if number < KEYS
            )
    counted = port.statistics()
    assert counted.in_flight == counted.waiting_store_bytes == 0
    assert sum(kind.jobs for kind in counted.kinds.values()) == len(crew.expected) + 1
    assert not select.select([port.event_fd], [], [], 0)[0]


def _submit_and_wait(
    port: JobPort, submitted: list[int], waited: list[JobResult | None], began: threading.Event
) -> None:
    while True:
        try:
            job = port.submit_get(["k"], [bytearray(SIZE)])
        except ConnectorClosedError:
            return
        submitted.append(job)
        began.set()
        waited.append(port.wait(job))


def test_closing_while_threads_submit_and_wait_gives_each_job_a_result(open_port: OpenPort, valkey_url: str) -> None:
    for _ in range(5):
        port = open_port(valkey_url, deadline=30)
        waited: list[JobResult | None] = []
        submitted: list[int] = []
        began = threading.Event()

        threads = [threading.Thread(target=_submit_and_wait, args=(port, submitted, waited, began)) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert began.wait(10)
        port.close(grace=0)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert sorted(result.id for result in waited if result is not None) == sorted(submitted)


def test_ports_are_made_and_closed_by_many_threads_at_once(open_port: OpenPort, valkey_url: str) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(4):
                with JobPort(valkey_url) as port:
                    result = port.wait(port.submit_exists(["nothing"]))
                    assert result is not None
                    assert result.error is None
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
        assert not thread.is_alive()
    assert failures == []
    assert not [thread for thread in threading.enumerate() if thread.name == "lmcache-connect jobs"]
