"""`Exchange`: two threads between vLLM's scheduler and the port of jobs."""

from __future__ import annotations

import logging
import os
import select
import threading
from queue import Empty, SimpleQueue
from typing import Final

from ...errors import LMCacheConnectError
from ...observability import RepeatedEvent
from ...outside import described
from ...process import this_process
from ..jobs import JobResult
from .tasks import Answer, Place, Task

_LONGEST_WAIT: Final = 30.0
"""Seconds after which a thread that has not ended is given up. Jobs have ended by their deadlines long before."""


class ExchangeStuckError(LMCacheConnectError, RuntimeError):
    """Something of the exchange did not end. vLLM must not free the memory."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} did not end in time; vLLM's memory may still be in use, so it must stay mapped")


class Exchange:
    """Takes tasks from the scheduler, has them done by the port, and hands their answers back.

    The scheduler's side (`give`, `take`) touches two queues of the interpreter's own, which never give up the
    interpreter's lock. So a step does not wait for the event loop, however busy it is: names, views and system calls
    are the threads' work.
    """

    def __init__(self, place: Place) -> None:
        self._process = this_process()
        self._place = place
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._lock = threading.Lock()  # between the two threads
        self._under_way: dict[int, Task] = {}
        self._refused = RepeatedEvent("vllm_task_refused")
        self._closing = False
        self._is_free = False
        self._stop, self._stopped = os.pipe()
        self._giver = threading.Thread(target=self._give_out, name="lmcache-connect-vllm-give", daemon=True)
        self._taker = threading.Thread(target=self._take_in, name="lmcache-connect-vllm-take", daemon=True)
        self._giver.start()
        self._taker.start()

    # ---------------------------------------------------------------------------------- the scheduler's side

    def give(self, task: Task) -> None:
        """Has the task done. Its answer comes from `take`, in any case. After `close()` it has failed.

        Raises:
            ForkedProcessError: in a fork, which has neither of the two threads.
        """
        self._process.check("the tier")
        if self._closing:
            self._fail(task)
        else:
            self._tasks.put(task)

    def take(self) -> Answer | None:
        """Returns an answer that has come; None: there is none now.

        Raises:
            ForkedProcessError: in a fork, to which the parent's answers do not belong.
        """
        self._process.check("the tier")
        try:
            return self._answers.get_nowait()
        except Empty:
            return None

    def wait(self) -> Answer:
        """Returns the next answer, as soon as it has come. Jobs have deadlines, so it comes.

        Raises:
            ForkedProcessError: in a fork, where none would ever come.
        """
        self._process.check("the tier")
        return self._answers.get()

    def close(self, grace: float) -> None:
        """Ends all tasks; those under way may go on for `grace` seconds. Idempotent.

        When it has returned, nothing touches vLLM's memory, every task has its answer, and answers can still be taken.
        In a fork, only what the fork has inherited is closed.

        Raises:
            ExchangeStuckError: something did not end in time. The memory may still be in use.
        """
        if self._process.is_forked():
            self._place.port.close()
            return
        if self._closing:
            if not self._is_free:
                raise ExchangeStuckError("a transfer")
            return
        self._closing = True
        self._tasks.put(None)
        self._join(self._giver)
        os.close(self._stopped)
        self._join(self._taker)  # before the port closes its descriptor, whose number may become another file's
        os.close(self._stop)
        port = self._place.port
        is_free = port.release_memory(grace)
        port.close(0.0)
        for result in port.drain():
            self._answer(result)
        for task in self._under_way.values():
            self._fail(task)
        self._under_way.clear()
        if not is_free:
            raise ExchangeStuckError("a transfer")
        self._is_free = True

    # --------------------------------------------------------------------------------------- the two threads

    def _give_out(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._begin(task)
            del task  # the memory of what it names must not wait for the next one

    def _take_in(self) -> None:
        port = self._place.port
        poll = select.poll()
        poll.register(port.event_fd, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        ended = False
        while not ended:
            ended = any(fd == self._stop for fd, _ in poll.poll())
            for result in port.drain():
                self._answer(result)

    def _answer(self, result: JobResult) -> None:
        with self._lock:
            task = self._under_way.pop(result.id)
        following = task.go_on(result)
        if isinstance(following, Task):
            self._begin(following)
        elif following is not None:
            self._answers.put(following)

    def _begin(self, task: Task) -> None:
        with self._lock:  # or the answer may come before the task is known here
            try:
                self._under_way[task.begin(self._place)] = task
                return
            except Exception as error:  # the thread must go on: vLLM waits for every answer
                level = logging.DEBUG if self._closing else logging.WARNING
                self._refused.tell(level, task=type(task).__name__, reason=described(error))
        self._fail(task)

    def _fail(self, task: Task) -> None:
        if (answer := task.failed()) is not None:
            self._answers.put(answer)

    @staticmethod
    def _join(thread: threading.Thread) -> None:
        thread.join(_LONGEST_WAIT)
        if thread.is_alive():
            raise ExchangeStuckError(f"the thread {thread.name}")
