"""Which jobs a watchdog looks after."""

from __future__ import annotations

import threading

from lmcache_connect.engines.job import Job
from lmcache_connect.engines.job_book import JobBook
from lmcache_connect.engines.watchdog import Watchdog


def test_a_job_that_was_over_before_it_was_watched_is_never_ended_at_its_deadline() -> None:
    ended: list[Job] = []
    has_ended = threading.Event()

    def force_end(job: Job, why: str) -> bool:
        ended.append(job)
        job.fail(why, "its time is over")
        has_ended.set()
        return True

    watchdog = Watchdog(force_end)
    book = JobBook(1, lambda job, _: watchdog.forget(job))
    over, _ = book.add("exists", ["a"], None, 0.01)
    over.fail("released", "by another thread than that which submits it")
    late, _ = book.add("exists", ["b"], None, 0.02)
    try:
        watchdog.watch(over)
        watchdog.watch(late)
        assert has_ended.wait(10)
    finally:
        watchdog.close()
    assert ended == [late]
