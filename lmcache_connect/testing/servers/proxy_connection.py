"""`Connection`: one client of the fault proxy, its connection to the server, and the bytes between them."""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .tcp_faults import Direction, Fault, FaultKind

BUFFER_BYTES: Final = 1024 * 1024
"""The most bytes that the proxy holds for one direction of a connection. The kernel's buffers come on top."""

DELAY_BYTES: Final = 64 * 1024 * 1024
"""The same for a direction under a `DELAY` fault, which must hold what it delays."""

LINGER: Final = 1.0
"""Seconds that a connection ended by `CLOSE` is still read from. So its peers see an end, and not a reset."""

_DRIP_INTERVAL: Final = 0.02
"""Seconds between two drops of a `DRIP` fault, where its rate is above 50 bytes per second."""

_ENDING: Final = frozenset({FaultKind.RESET, FaultKind.CLOSE, FaultKind.TRUNCATE_AND_CLOSE})
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, for zero seconds


@dataclass
class Counts:
    connections: int = 0
    bytes_to_server: int = 0
    bytes_to_client: int = 0
    fired: int = 0


class Engine(Protocol):
    """What a connection uses of the engine that runs it."""

    counts: Counts
    selector: selectors.BaseSelector
    fault: Fault | None
    connections: set[Connection]

    def take_shot(self) -> bool: ...
    def shot_taken(self) -> None: ...
    def after(self, seconds: float, action: Callable[[], None]) -> None: ...


class _Piece:
    """Bytes to be forwarded. An empty piece is the end of a delayed stream."""

    __slots__ = ("due", "view")

    def __init__(self, view: memoryview, due: float = 0.0) -> None:
        self.view = view
        self.due = due  # not to be forwarded before this time, while a delay holds


class _Flow:
    """One direction of a connection."""

    __slots__ = (
        "alarm", "blocked", "buffer", "delay", "direction", "ended", "fault", "finished", "hold", "left",
        "next_drop", "pending", "pending_bytes", "rate", "sink", "source", "torn",
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
        self.rate = 0  # bytes per second of a drip
        self.next_drop = 0.0
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


class Connection:
    """A client's connection, the one to the server made for it, and the flows between them."""

    def __init__(self, engine: Engine, client: socket.socket, server: socket.socket, address: Any) -> None:
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
            if end.family != socket.AF_UNIX:
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
        """Tells the selector what each socket waits for now."""
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
            # Also keeps a peer that hung up from waking the loop for ever while nothing may be read from it.
            self.engine.selector.unregister(end)
        else:
            self.engine.selector.modify(end, now, handler)
        self.interests[end] = now

    # ------------------------------------------------------------------------------------------------ bytes

    def read(self, flow: _Flow) -> None:
        """Reads once what has arrived, and forwards it."""
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
        """Forwards as much as the sink takes and the armed fault lets pass."""
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
            if flow.hold is FaultKind.DRIP:
                if (pause := flow.next_drop - time.monotonic()) > 0:
                    if flow.alarm != flow.next_drop:
                        flow.alarm = flow.next_drop
                        self.engine.after(pause, lambda: self.on_alarm(flow))
                    return
                view = view[: max(1, int(flow.rate * _DRIP_INTERVAL))]
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
            if flow.hold is FaultKind.DRIP:
                flow.next_drop = time.monotonic() + sent / flow.rate
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
        """Called when the sink was reset by its peer. What that peer sent before is still read and forwarded."""
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
            case FaultKind.DRIP:
                flow.hold = fault.kind
                flow.rate = fault.rate
            case FaultKind.INSERT:
                flow.pending.appendleft(_Piece(memoryview(fault.data)))
                flow.pending_bytes += len(fault.data)
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
            pass  # the sink was reset meanwhile; reading from it shows that

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
