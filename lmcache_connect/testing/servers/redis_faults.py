"""`ReplyFault` and its kinds: the ways in which the reply of a Redis server to one command goes wrong."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_LENGTH: Final = re.compile(rb"\$(\d+)\r\n")


class ReplyFault:
    """One fault. The base forwards the command and the reply unharmed."""

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        """Answers one command. Returns whether the connection stays open.

        Args:
            ask: sends the command to the server and returns its whole reply. It may be left alone.
            client: where the answer goes.
            stop: is set when the proxy ends.
        """
        client.sendall(ask())
        return True


@dataclass(frozen=True)
class ErrorReply(ReplyFault):
    """An error of the server in place of its reply, such as `ErrorReply("LOADING loading the dataset in memory")`.

    Attributes:
        text: the error's code, and a sentence. `MOVED 1234 127.0.0.1:6380` is one, too.
        is_done: whether the server is still given the command, and its reply dropped.
    """

    text: str
    is_done: bool = False

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        if self.is_done:
            ask()
        client.sendall(f"-{self.text}\r\n".encode())
        return True


@dataclass(frozen=True)
class ExtraReply(ReplyFault):
    """The reply, and another one behind it that nobody asked for."""

    data: bytes = b"+OK\r\n"

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        client.sendall(ask() + self.data)
        return True


@dataclass(frozen=True)
class WrongLength(ReplyFault):
    """The first string in the reply claims to have `by` bytes more than it has; fewer, where that is negative.

    A reply without a string goes through unharmed.
    """

    by: int

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        client.sendall(_LENGTH.sub(lambda found: b"$%d\r\n" % max(0, int(found[1]) + self.by), ask(), count=1))
        return True


@dataclass(frozen=True)
class CutReply(ReplyFault):
    """The connection ends after `after` bytes of the reply; with `reset` by a TCP reset."""

    after: int
    reset: bool = False

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        client.sendall(ask()[: self.after])
        if self.reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


@dataclass(frozen=True)
class FlippedReply(ReplyFault):
    """The lowest bit of byte `at` of the reply is inverted. A negative `at` counts from the end."""

    at: int

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        reply = bytearray(ask())
        if -len(reply) <= self.at < len(reply):
            reply[self.at] ^= 1
        client.sendall(reply)
        return True


@dataclass(frozen=True)
class RawReply(ReplyFault):
    """These bytes in place of the reply. The server is not given the command."""

    data: bytes

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        client.sendall(self.data)
        return True


@dataclass(frozen=True)
class LateReply(ReplyFault):
    """The reply comes `seconds` late."""

    seconds: float

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        reply = ask()
        if stop.wait(self.seconds):
            return False
        client.sendall(reply)
        return True


class NoReply(ReplyFault):
    """The server is given the command, and its reply is dropped. The connection stays, and says nothing more."""

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        ask()
        stop.wait()
        return False


class Hangup(ReplyFault):
    """The connection ends. The server is not given the command."""

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        return False
