"""What the kernel is asked to do about peers that are silent."""

from __future__ import annotations

import socket
from typing import Final

from .stall_clock import SEND_TICK, TICKS
from .wire import limit_call

_IDLE_SECONDS: Final = 5
"""After so long without traffic, the kernel asks whether the peer is there. It also keeps a NAT's entry alive."""

_INTERVAL_SECONDS: Final = 2
"""A connection that a balancer has forgotten without a word ends after two such questions, 7 s, or three where
`TCP_USER_TIMEOUT` is unknown."""

_PROBES: Final = 3


def find_dead_peers(sock: socket.socket, stall_timeout: float | None) -> None:
    """Has the kernel end a TCP connection whose peer is gone: also one that is idle, as far as the system can do it.

    What was sent and is not acknowledged for `stall_timeout` seconds ends the connection (`TCP_USER_TIMEOUT`).
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for names, value in (
        (("TCP_KEEPIDLE", "TCP_KEEPALIVE"), _IDLE_SECONDS),
        (("TCP_KEEPINTVL",), _INTERVAL_SECONDS),
        (("TCP_KEEPCNT",), _PROBES),
    ):
        option = next((getattr(socket, name) for name in names if hasattr(socket, name)), None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if stall_timeout is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(stall_timeout * 1000)))


def end_by_themselves(sock: socket.socket, stall_timeout: float | None) -> None:
    """Has calls on the socket end by themselves after a tick, while a thread has it: see `stall_clock.py`.

    Without effect while the socket does not block.
    """
    if stall_timeout is None:
        return
    tick = stall_timeout / TICKS
    for option, seconds in ((socket.SO_RCVTIMEO, tick), (socket.SO_SNDTIMEO, min(tick, SEND_TICK))):
        limit_call(sock, option, seconds)
