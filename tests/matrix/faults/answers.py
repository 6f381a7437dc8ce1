"""Answers that are wrong, and answers that are errors, of Redis and of S3."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Final

from lmcache_connect.testing.servers import redis_faults, s3_faults

from ..cell import Operation
from ..places.s3_place import S3Place
from .fault import Fault, Trial

_WRITES: Final = ("SET", "HSET")
_READS: Final = ("GET", "HGET")


class OneReply(Fault):
    """The next reply to a command that carries data is spoilt."""

    family = "answers"
    needs = "reply"
    way = "answers"
    each = True
    put: redis_faults.ReplyFault
    get: redis_faults.ReplyFault

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        for proxy in trial.place.answering:
            for command in _WRITES if operation == "put" else _READS:
                proxy.plan(command, self.put if operation == "put" else self.get)

    async def end(self, trial: Trial) -> None:
        for proxy in trial.place.answering:
            proxy.clear()


class EarlyReply(redis_faults.ReplyFault):
    """A reply that nobody asked for, and then the right one."""

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        client.sendall(b"+OK\r\n" + ask())
        return True


class ExtraReply(OneReply):
    name = "extra-reply"
    title = "an answer too many"
    text = "An answer that nobody has asked for comes before the right one, so that all that follow are one late."
    put = get = EarlyReply()


class ShortReply(redis_faults.ReplyFault):
    """The right reply, as if it were the one byte of a string."""

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        client.sendall(b"$1\r\n" + ask())
        return True


class WrongLength(OneReply):
    name = "wrong-length"
    title = "wrong length"
    text = "An answer says that it is a byte shorter than it is. A put is answered by a length that makes no sense."
    put = ShortReply()
    get = redis_faults.WrongLength(-1)


class ErrorReplies(Fault):
    """A server answers every command with one error, until it is over."""

    family = "answers"
    needs = "errors"
    way = "answers"

    def __init__(self, reply: str, text: str) -> None:
        code = reply.partition(" ")[0]
        self.title = f"error reply {code}"
        self.name = f"error-{code.lower()}"
        self.text = text
        self._reply = redis_faults.ErrorReply(reply)

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        for proxy in trial.place.answering:
            proxy.otherwise = self._reply

    async def end(self, trial: Trial) -> None:
        for proxy in trial.place.answering:
            trial.place.heal(proxy)


class HTTPFault(Fault):
    """Transfers are answered so, until it is over."""

    family = "answers"
    needs = "http"
    way = "answers"

    def __init__(self, name: str, title: str, text: str, fault: s3_faults.Fault, *, once: bool = False) -> None:
        self.name, self.title, self.text = name, title, text
        self._fault = fault
        self.each = once

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        assert isinstance(trial.place, S3Place)
        trial.place.plan(self._fault, 1 if self.each else None)

    async def end(self, trial: Trial) -> None:
        assert isinstance(trial.place, S3Place)
        trial.place.answers.heal()


def _refused(status: int, code: str, text: str) -> HTTPFault:
    return HTTPFault(f"http-{status}", f"{status} {code}", text, s3_faults.Refuse(status, code))


FAULTS: tuple[Fault, ...] = (
    ExtraReply(),
    WrongLength(),
    ErrorReplies("LOADING Redis is loading the dataset in memory", "A restarted server reads its data from disk."),
    ErrorReplies("NOAUTH Authentication required.", "The server wants a password, and was given none."),
    ErrorReplies("WRONGPASS invalid username-password pair or user is disabled.", "The user is disabled."),
    ErrorReplies("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
                 "The server is a replica that has lost its primary."),
    ErrorReplies("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
                 "A script holds the server."),
    ErrorReplies("MOVED 0 127.0.0.1:1", "The server sends clients to another node, which is not there."),
    ErrorReplies("ERR something nobody has heard of", "An error that has no class of its own."),
    HTTPFault("http-length", "wrong Content-Length", "The answer says that it is longer than it is.",
              s3_faults.Length("99999999"), once=True),
    HTTPFault("http-extra", "an HTTP answer too many", "An answer that nobody has asked for follows the right one.",
              s3_faults.Trailing(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), once=True),
    _refused(500, "InternalError", "The server has failed by itself."),
    _refused(503, "SlowDown", "The server asks for fewer requests, in S3's words."),
    _refused(429, "TooManyRequests", "The server asks for fewer requests."),
    _refused(403, "AccessDenied", "The credentials do not allow it."),
)  # fmt: skip
