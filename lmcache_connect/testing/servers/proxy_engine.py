"""`Engine`: the thread of the fault proxy, with its event loop, its timers, and the commands of other threads."""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from ...errors import LMCacheConnectError
from .proxy_connection import Connection, Counts
from .tcp_faults import Fault, FaultKind

ANSWER_DEADLINE: Final = 5.0
"""Seconds that a command waits for the engine's thread."""


class ProxyNotRunningError(LMCacheConnectError, RuntimeError):
    """Something was asked of a proxy that only a running one can do."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"{operation}: the proxy is not running; call start() or use it in a `with` block")
        self.operation = operation


class Engine:
    """Runs in the proxy's thread. Only `call` may be used from another thread."""

    def __init__(
        self, listener: socket.socket, family: int, address: Any, counts: Counts, fired: threading.Event
    ) -> None:
        self.counts = counts
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self.fault: Fault | None = None
        self.connections: set[Connection] = set()
        self._fired = fired
        self._listener = listener
        self._family = family
        self._address = address
        self._shots: int | None = None  # how often the armed fault may still fire; None: any number of times
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_order = itertools.count()  # heapq must never compare two callables
        self._stopping = False
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._lock = threading.Lock()  # guards the next two
        self._commands: deque[tuple[str, Callable[[], None], Future[None]]] = deque()
        self._ended = False

    def call(self, operation: str, command: Callable[[], None]) -> None:
        """Runs `command` in the proxy's thread and waits for it. For any other thread.

        Raises:
            ProxyNotRunningError: the thread has ended.
            TimeoutError: the command did not run within five seconds.
        """
        done: Future[None] = Future()
        with self._lock:
            if self._ended:
                raise ProxyNotRunningError(operation)
            self._commands.append((operation, command, done))
            try:
                self._waker.send(b"\0")
            except BlockingIOError:
                pass  # full of wake-ups already
        done.result(ANSWER_DEADLINE)

    def run(self) -> None:
        self.selector.register(self._listener, selectors.EVENT_READ, lambda _: self._accept())
        self.selector.register(self._wake, selectors.EVENT_READ, lambda _: self._obey())
        try:
            while not self._stopping:
                for key, events in self.selector.select(self._until_next_timer()):
                    key.data(events)
                while self._timers and self._timers[0][0] <= time.monotonic():
                    heapq.heappop(self._timers)[2]()
        finally:
            with self._lock:
                self._ended = True
                for operation, _, done in self._commands:
                    done.set_exception(ProxyNotRunningError(operation))
            for connection in list(self.connections):
                connection.close()
            self._listener.close()
            self.selector.close()
            self._wake.close()
            self._waker.close()

    # --------------------------------------------------------------------------------------------- commands

    def stop(self) -> None:
        self._stopping = True

    def arm(self, fault: Fault) -> None:
        # For a client that connected before this the earlier fault holds, accepted yet or not.
        self._accept()
        self.counts.fired = 0
        self._fired.clear()
        self._shots = fault.count
        self._set(fault)

    def disarm(self) -> None:
        self._accept()
        self._set(None)

    def drop_and_disarm(self) -> None:
        self.drop_all()
        self._set(None)

    def drop_all(self) -> None:
        self._accept()
        for connection in list(self.connections):
            connection.close()

    def _set(self, fault: Fault | None) -> None:
        self.fault = fault
        for connection in list(self.connections):
            connection.set_fault(fault)

    # ---------------------------------------------------------------------------------- for the connections

    def take_shot(self) -> bool:
        """Whether the armed fault may fire once more. That is then counted; call `shot_taken` next."""
        if self.fault is None:
            return False
        self.counts.fired += 1
        if self._shots is not None:
            self._shots -= 1
            if self._shots == 0:
                self.fault = None
        return True

    def shot_taken(self) -> None:
        self._fired.set()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Calls `action` in `seconds`. This cannot be undone: the action checks whether it still applies."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._timer_order), action))

    # -------------------------------------------------------------------------------------------- machinery

    def _until_next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _obey(self) -> None:
        try:
            self._wake.recv(4096)
        except BlockingIOError:
            pass  # the command it announced was run already
        while True:
            with self._lock:
                if not self._commands:
                    return
                _, command, done = self._commands.popleft()
            try:
                command()
            except BaseException as error:
                done.set_exception(error)
                raise
            done.set_result(None)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # the client was gone before it was accepted
            self.counts.connections += 1
            if self.fault is not None and self.fault.kind is FaultKind.REFUSE and self.take_shot():
                client.close()
                self.shot_taken()
                continue
            try:
                server = socket.socket(self._family)
            except BaseException:
                client.close()
                raise
            Connection(self, client, server, self._address)
