"""A TCP proxy that breaks connections on purpose, at an exact byte, for tests of what a client makes of it.

    with ValkeyServer() as server, FaultProxy(server.host, server.port) as proxy:
        proxy.arm(Fault(FaultKind.RESET, after_bytes=1000, count=1))
        ...  # the first connection to receive 1000 bytes is reset, the next one works

The proxy runs in a thread of its own, so any test can use it, synchronous or on an event loop. With no fault
armed it loses, changes and reorders nothing, keeps half-closed connections half-closed, and hands
back-pressure on: it holds at most `BUFFER_BYTES` for each direction of a connection.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self

from ...errors import InvalidArgumentError, LMCacheConnectError

BUFFER_BYTES: Final = 1024 * 1024
"""Bytes the proxy holds, at most, for one direction of a connection. The kernel's buffers come on top."""

DELAY_BYTES: Final = 64 * 1024 * 1024
"""The same of a direction under a `DELAY` fault, which must hold what it delays."""

LINGER: Final = 1.0
"""Seconds that a connection ended by `CLOSE` is still read from: its peers see an end, and no reset."""

_ANSWER_DEADLINE: Final = 5.0
_BACKLOG: Final = 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, for zero seconds


class Direction(StrEnum):
    """Which way bytes go."""

    TO_CLIENT = "to_client"
    TO_SERVER = "to_server"


class FaultKind(StrEnum):
    """What goes wrong, once `after_bytes` bytes have gone the fault's direction."""

    RESET = "reset"
    """Both peers get a TCP reset. What they had not read yet may be lost to them, as with any reset."""
    CLOSE = "close"
    """Both peers get an orderly end (FIN); whatever they send afterwards is discarded."""
    TRUNCATE_AND_CLOSE = "truncate_and_close"
    """The receiver gets exactly `after_bytes` bytes and an orderly end; the sender is not told, and the rest
    of what it sends is discarded. The other direction goes on."""
    STALL = "stall"
    """Nothing more is forwarded, nor read once the buffers are full, until the fault is disarmed."""
    SWALLOW = "swallow"
    """Bytes are read and discarded; an end of the stream is still passed on."""
    DELAY = "delay"
    """Bytes, and the end of the stream, are forwarded `delay` seconds after they arrived, in order."""
    FLIP = "flip"
    """The lowest bit of the next byte is inverted, once on a connection."""
    REFUSE = "refuse"
    """A new connection is accepted and closed at once, without one to the server. A client that has sent
    something by then gets a reset, any other an orderly end."""


_ENDING: Final = frozenset({FaultKind.RESET, FaultKind.CLOSE, FaultKind.TRUNCATE_AND_CLOSE})


@dataclass(frozen=True)
class Fault:
    """One thing to go wrong.

    On each connection it fires at most once each time it is armed, when the first byte past `after_bytes` is
    about to be forwarded; the kinds that end a connection fire as soon as `after_bytes` bytes were, if that
    is not 0. So an idle connection stays untouched.

    Attributes:
        kind: what goes wrong.
        direction: the bytes that are counted and harmed. `REFUSE` has none.
        after_bytes: bytes forwarded unharmed, counted on each connection from the moment the fault was armed.
        delay: seconds, for `DELAY` alone.
        count: on how many connections it fires before it disarms itself; None is until disarmed. A fault that
            disarmed itself spares further connections and keeps its hold on those where it fired.

    Raises:
        InvalidArgumentError: a value out of range, or one that the kind has no use for.
    """

    kind: FaultKind
    direction: Direction = Direction.TO_CLIENT
    after_bytes: int = 0
    delay: float = 0.0
    count: int | None = None

    def __post_init__(self) -> None:
        if self.after_bytes < 0:
            raise InvalidArgumentError("after_bytes", f"{self.after_bytes} is negative; expected 0 or more")
        if self.count is not None and self.count < 1:
            raise InvalidArgumentError("count", f"{self.count} never fires; expected 1 or more, or None")
        if self.kind is FaultKind.DELAY and not self.delay > 0:
            raise InvalidArgumentError("delay", f"{self.delay} delays nothing; expected more than 0 seconds")
        if self.kind is not FaultKind.DELAY and self.delay != 0:
            raise InvalidArgumentError("delay", f"it has no meaning for {self.kind}; expected 0")
        if self.kind is FaultKind.REFUSE and self.after_bytes:
            raise InvalidArgumentError("after_bytes", "it has no meaning for refuse; expected 0")


class ProxyNotRunningError(LMCacheConnectError, RuntimeError):
    """Something was asked of a proxy that only a running one can do."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"{operation}: the proxy is not running; call start() or use it in a `with` block")
        self.operation = operation


@dataclass
class _Counts:
    connections: int = 0
    bytes_to_server: int = 0
    bytes_to_client: int = 0
    fired: int = 0


class FaultProxy:
    """Forwards TCP connections from a port of its own to `upstream_host`:`upstream_port`, until a fault is
    armed.

    A sync context manager; `start()` and `stop()` do the same by hand, from one thread. A proxy that is
    started again listens on the same port. The other methods may be called from any thread, an event loop's
    included: those that change something return once the change holds for every byte not forwarded yet,
    normally well within a millisecond. A client for whom no connection to the server can be made gets a
    reset.
    """

    host: Final = "127.0.0.1"
    """Where the proxy listens."""

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self.upstream_host = upstream_host
        self.upstream_port = upstream_port
        self._port = 0
        self._counts = _Counts()
        self._fired = threading.Event()
        self._engine: _Engine | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that clients connect to. Kept while the proxy is stopped.

        Raises:
            ProxyNotRunningError: the proxy was never started.
        """
        if not self._port:
            raise ProxyNotRunningError("port")
        return self._port

    @property
    def connections(self) -> int:
        """Connections accepted so far, the refused ones included."""
        return self._counts.connections

    @property
    def bytes_to_server(self) -> int:
        """Bytes handed to the server's sockets so far, over all connections."""
        return self._counts.bytes_to_server

    @property
    def bytes_to_client(self) -> int:
        """Bytes handed to the clients' sockets so far, over all connections."""
        return self._counts.bytes_to_client

    @property
    def fired(self) -> int:
        """How often the fault armed last has fired."""
        return self._counts.fired

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and forward from now on. Nothing happens if the proxy is running.

        Raises:
            OSError: the upstream host has no address, or somebody took the port while the proxy was stopped.
        """
        if self._engine is not None:
            return
        upstream = socket.getaddrinfo(self.upstream_host, self.upstream_port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self._port))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        self._port = listener.getsockname()[1]
        self._engine = _Engine(listener, upstream[0], upstream[4], self._counts, self._fired)
        # A daemon: a test that forgot to stop it must not keep the interpreter from ending.
        name = f"fault-proxy-{self._port}"
        self._thread = threading.Thread(target=self._engine.run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the listener and every connection and end the thread, armed fault or not. Idempotent.

        Raises:
            TimeoutError: the thread did not end within five seconds, which is a bug of the proxy.
        """
        engine, thread = self._engine, self._thread
        self._engine = self._thread = None
        if engine is None or thread is None:
            return
        try:
            engine.call("stop", engine.stop)
        except ProxyNotRunningError:
            pass  # its thread died of an error that was reported there
        thread.join(_ANSWER_DEADLINE)
        if thread.is_alive():
            raise TimeoutError(f"{thread.name} did not end within {_ANSWER_DEADLINE:g} s, expected at once")

    def arm(self, fault: Fault) -> None:
        """Let `fault` happen, in the place of the one armed before, whose hold on connections ends as with
        `disarm()`. `fired` starts at 0 again.

        Raises:
            ProxyNotRunningError: the proxy is not running.
        """
        engine = self._running("arm")
        engine.call("arm", lambda: engine.arm(fault))

    def disarm(self) -> None:
        """Forward everything again: what was stalled or delayed flows at once. What was swallowed, truncated
        or closed stays so. `fired` keeps its value. Nothing happens if no fault is armed.

        Raises:
            ProxyNotRunningError: the proxy is not running.
        """
        engine = self._running("disarm")
        engine.call("disarm", engine.disarm)

    def drop_all(self) -> None:
        """Close every connection, those included that wait to be accepted. Both peers see an orderly end, or
        a reset if the proxy had not read all they sent.

        Raises:
            ProxyNotRunningError: the proxy is not running.
        """
        engine = self._running("drop_all")
        engine.call("drop_all", engine.drop_all)

    def wait_fired(self, timeout: float) -> bool:
        """Wait until the fault armed last has fired, `timeout` seconds at most, and tell whether it has.

        It blocks its thread; on an event loop, await `asyncio.to_thread(proxy.wait_fired, timeout)`.
        """
        return self._fired.wait(timeout)

    def _running(self, operation: str) -> _Engine:
        if self._engine is None:
            raise ProxyNotRunningError(operation)
        return self._engine


class _Engine:
    """What runs in the proxy's thread. Only `call` may be used from another one."""

    def __init__(
        self, listener: socket.socket, family: int, address: Any, counts: _Counts, fired: threading.Event
    ) -> None:
        self.counts = counts
        self.selector = selectors.DefaultSelector()
        self.fault: Fault | None = None
        self.connections: set[_Connection] = set()
        self._fired = fired
        self._listener = listener
        self._family = family
        self._address = address
        self._shots: int | None = None  # how often the armed fault may still fire; None is no limit
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
        """Run `command` in the proxy's thread and wait for it, from any other thread.

        Raises:
            ProxyNotRunningError: the thread has ended.
            TimeoutError: it did not come to it within five seconds.
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
        done.result(_ANSWER_DEADLINE)

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
        # A client that connected before this is bound by what was armed then, accepted yet or not.
        self._accept()
        self.counts.fired = 0
        self._fired.clear()
        self._shots = fault.count
        self._set(fault)

    def disarm(self) -> None:
        self._accept()
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
        """Whether the armed fault may fire once more, which is then counted; call `shot_taken` next."""
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
        """Call `action` in `seconds`. It cannot be taken back: the action looks whether it still applies."""
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
            _Connection(self, client, server, self._address)


class _Piece:
    """Bytes on their way, or none of them: the end of a delayed stream."""

    __slots__ = ("due", "view")

    def __init__(self, view: memoryview, due: float = 0.0) -> None:
        self.view = view
        self.due = due  # not to be forwarded before this time, while a delay holds


class _Flow:
    """One direction of a connection."""

    __slots__ = (
        "alarm", "blocked", "buffer", "delay", "direction", "ended", "fault", "finished", "hold", "left",
        "pending", "pending_bytes", "sink", "source", "torn",
    )  # fmt: skip

    def __init__(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        self.source = source
        self.sink = sink
        self.direction = direction
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.pending: deque[_Piece] = deque()
        self.pending_bytes = 0
        self.blocked = False  # the sink's kernel buffer is full
        self.ended = False  # the source sends no more
        self.torn = False  # ... because it was reset
        self.finished = False  # the sink was told the end, or cannot be told anything
        self.fault: Fault | None = None  # may still fire here
        self.left = 0  # bytes until it does
        self.hold: FaultKind | None = None  # what fired here and lasts; TRUNCATE_AND_CLOSE: discard all
        self.delay = 0.0
        self.alarm = 0.0  # the due time that a timer is set for

    def wants_to_read(self) -> bool:
        if self.ended or self.hold is FaultKind.STALL:
            return False
        if self.hold is FaultKind.DELAY:
            return self.pending_bytes < DELAY_BYTES
        return not self.pending

    def drop_pending(self) -> None:
        self.pending.clear()
        self.pending_bytes = 0
        self.blocked = False


class _Connection:
    """A client's connection, the one to the server made for it, and the flows between them."""

    def __init__(self, engine: _Engine, client: socket.socket, server: socket.socket, address: Any) -> None:
        self.engine = engine
        self.client = client
        self.server = server
        self.up = _Flow(client, server, Direction.TO_SERVER)
        self.down = _Flow(server, client, Direction.TO_CLIENT)
        self.closed = False
        self.connecting = True
        self.interests: dict[socket.socket, int] = {client: 0, server: 0}
        engine.connections.add(self)
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server.connect_ex(address) not in {0, errno.EINPROGRESS}:
            self.reset()
        self.set_fault(engine.fault)

    # ----------------------------------------------------------------------------------------------- events

    def on_client(self, events: int) -> None:
        self._on_event(events, reads=self.up, writes=self.down)

    def on_server(self, events: int) -> None:
        if self.connecting and not self.closed:
            if self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.reset()
            else:
                self.connecting = False
                self.update()
            return
        self._on_event(events, reads=self.down, writes=self.up)

    def _on_event(self, events: int, *, reads: _Flow, writes: _Flow) -> None:
        if events & selectors.EVENT_WRITE:
            self.forward(writes)
        # The event may be older than what another one, in the same batch, did to this connection.
        if events & selectors.EVENT_READ and not self.closed and reads.wants_to_read():
            self.read(reads)
        self.update()

    def on_alarm(self, flow: _Flow) -> None:
        self.forward(flow)
        self.update()

    def set_fault(self, fault: Fault | None) -> None:
        if fault is not None and fault.kind is FaultKind.REFUSE:
            fault = None  # the listener's alone
        for flow in (self.up, self.down):
            flow.fault = fault if fault is not None and fault.direction is flow.direction else None
            flow.left = fault.after_bytes if fault is not None else 0
            if flow.hold is not FaultKind.TRUNCATE_AND_CLOSE:
                flow.hold = None
                self.forward(flow)
        self.update()

    def update(self) -> None:
        """Tell the selector what each socket waits for now."""
        if self.closed:
            return
        if self.up.ended and self.up.finished and self.down.ended and self.down.finished:
            self.close()
            return
        if self.connecting:
            self._watch(self.server, self.on_server, read=False, write=True)
            return
        self._watch(self.client, self.on_client, read=self.up.wants_to_read(), write=self.down.blocked)
        self._watch(self.server, self.on_server, read=self.down.wants_to_read(), write=self.up.blocked)

    def _watch(self, end: socket.socket, handler: Callable[[int], None], *, read: bool, write: bool) -> None:
        before = self.interests[end]
        now = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        if now == before:
            return
        if not before:
            self.engine.selector.register(end, now, handler)
        elif not now:
            # Also keeps a peer's hang-up from waking the loop for ever while nothing may be read from it.
            self.engine.selector.unregister(end)
        else:
            self.engine.selector.modify(end, now, handler)
        self.interests[end] = now

    # ------------------------------------------------------------------------------------------------ bytes

    def read(self, flow: _Flow) -> None:
        """Take what has arrived, once, and forward it."""
        delayed = flow.hold is FaultKind.DELAY
        try:
            if delayed:
                # The flow's own buffer holds one piece at a time; pieces that wait have their own.
                view = memoryview(bytearray(flow.source.recv(BUFFER_BYTES)))
            else:
                view = flow.buffer[: flow.source.recv_into(flow.buffer)]
        except BlockingIOError:
            return
        except OSError:
            flow.ended = flow.torn = True
        else:
            flow.ended = not view
            if view or delayed:
                flow.pending.append(_Piece(view, time.monotonic() + flow.delay if delayed else 0.0))
                flow.pending_bytes += len(view)
        self.forward(flow)

    def forward(self, flow: _Flow) -> None:
        """Hand on as much as the sink takes and the armed fault lets pass."""
        if self.closed or self.connecting:
            return
        flow.blocked = False
        while flow.pending:
            if flow.hold is FaultKind.STALL:
                return
            if flow.hold in {FaultKind.SWALLOW, FaultKind.TRUNCATE_AND_CLOSE}:
                flow.drop_pending()
                break
            piece = flow.pending[0]
            if flow.hold is FaultKind.DELAY and piece.due > time.monotonic():
                if flow.alarm != piece.due:
                    flow.alarm = piece.due
                    self.engine.after(piece.due - time.monotonic(), lambda: self.on_alarm(flow))
                return
            if not piece.view:
                flow.pending.popleft()
                continue
            view = piece.view
            if flow.fault is not None:
                if not flow.left:
                    self.fire(flow, flow.fault)
                    if self.closed:
                        return
                    continue
                view = view[: flow.left]
            try:
                sent = flow.sink.send(view)
            except BlockingIOError:
                flow.blocked = True
                return
            except OSError:
                self.sink_is_gone(flow)
                return
            if flow.direction is Direction.TO_CLIENT:
                self.engine.counts.bytes_to_client += sent
            else:
                self.engine.counts.bytes_to_server += sent
            flow.pending_bytes -= sent
            if sent == len(piece.view):
                flow.pending.popleft()
            else:
                piece.view = piece.view[sent:]
            if flow.fault is not None:
                flow.left -= sent
                if not flow.left and flow.fault.kind in _ENDING:
                    self.fire(flow, flow.fault)
                    if self.closed:
                        return
                    continue
            if sent < len(view):
                flow.blocked = True
                return
        if flow.ended and not flow.finished:
            if flow.torn:
                self.reset()
            else:
                self.shut(flow)

    def sink_is_gone(self, flow: _Flow) -> None:
        """The sink was reset by its peer. What that peer sent before is still read and goes the other way."""
        opposite = self.up if flow is self.down else self.down
        if opposite.ended and opposite.finished:
            self.reset()
            return
        flow.drop_pending()
        flow.hold = FaultKind.TRUNCATE_AND_CLOSE
        flow.fault = None
        flow.finished = True

    def fire(self, flow: _Flow, fault: Fault) -> None:
        flow.fault = None
        if not self.engine.take_shot():
            return
        match fault.kind:
            case FaultKind.RESET:
                self.reset()
            case FaultKind.CLOSE:
                for each in (self.up, self.down):
                    each.fault = None
                    self.truncate(each)
                self.engine.after(LINGER, self.close)
            case FaultKind.TRUNCATE_AND_CLOSE:
                self.truncate(flow)
            case FaultKind.FLIP:
                flow.pending[0].view[0] ^= 1
            case FaultKind.DELAY:
                flow.hold = fault.kind
                flow.delay = fault.delay
                for piece in flow.pending:
                    piece.due = time.monotonic() + fault.delay
            case FaultKind.STALL | FaultKind.SWALLOW:
                flow.hold = fault.kind
            case FaultKind.REFUSE:
                raise AssertionError("refuse fires on new connections alone; expected no flow to see it")
        self.engine.shot_taken()

    # -------------------------------------------------------------------------------------------------- end

    def truncate(self, flow: _Flow) -> None:
        flow.drop_pending()
        flow.hold = FaultKind.TRUNCATE_AND_CLOSE
        self.shut(flow)

    def shut(self, flow: _Flow) -> None:
        if flow.finished:
            return
        flow.finished = True
        try:
            flow.sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the sink was reset meanwhile; reading from it tells

    def reset(self) -> None:
        for end in (self.client, self.server):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for end in (self.client, self.server):
            if self.interests[end]:
                self.engine.selector.unregister(end)
            end.close()
        self.engine.connections.discard(self)
