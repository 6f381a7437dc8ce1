"""`Reaching`: from a name to a connection that is logged in, in steps, so that it is known which of them fails."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Final, TypeVar

from lmcache_connect import AuthenticationError, StoreError
from lmcache_connect.contract import Finding, Verdict
from lmcache_connect.errors import CertificateError, StoreLoadingError, TLSMismatchError
from lmcache_connect.transport import StreamClosedError, open_tcp_stream, open_unix_stream

from ..options import DEFAULT_PORT
from ..protocol.connection import Connection
from ..topology.single import SingleServer

T = TypeVar("T")

_FEW_DAYS: Final = 21
"""A certificate that ends sooner has to be renewed now."""

_SHOWN_ADDRESSES: Final = 3


class Reaching:
    """Opens one connection to a server, and tells each step. `connection` is there when all of them went well."""

    def __init__(self, server: SingleServer, timeout: float) -> None:
        """`timeout`: seconds for all steps together."""
        self._server: Final = server
        self._timeout: Final = timeout
        self._deadline = math.inf
        self.connection: Connection | None = None

    async def findings(self) -> AsyncIterator[Finding]:
        """Yields a finding for each step. The last one is `UNUSABLE` where the server cannot be reached."""
        self._deadline = time.monotonic() + self._timeout
        try:
            async for finding in self._connect():
                yield finding
                if finding.verdict is Verdict.UNUSABLE:
                    return
            async for finding in self._log_in():
                yield finding
        except TimeoutError:
            why = "the server takes the connection and does not answer" if self._is_connected else "no answer"
            advice = (
                "see whether the process is stopped, swaps, or is busy with a long command"
                if self._is_connected
                else "see whether the host is up, and whether a firewall drops what is sent to the port"
            )
            step = "login" if self._is_connected else "connect"
            yield Finding(step, Verdict.UNUSABLE, f"{why} within {self._timeout:g} s", advice)

    _is_connected = False

    async def _connect(self) -> AsyncIterator[Finding]:
        url = self._server.url
        started = time.monotonic()
        if url.scheme == "unix":
            where, open_stream = url.path, open_unix_stream(url.path)
        else:
            host, port = url.single_host(DEFAULT_PORT)
            if not _is_address(host):
                finding = await self._resolve(host, port)
                yield finding
                if finding.verdict is Verdict.UNUSABLE:
                    return
            started = time.monotonic()
            where, open_stream = f"{host}:{port}", open_tcp_stream(host, port)
        try:
            stream = await self._in_time(open_stream)
        except StreamClosedError as error:
            advice = "see whether the server runs, and listens on this address and port"
            yield Finding("connect", Verdict.UNUSABLE, str(error), advice)
            return
        stream.close()
        self._is_connected = True
        yield Finding("connect", Verdict.GOOD, f"{where} in {_ms(started)}")

    async def _resolve(self, host: str, port: int) -> Finding:
        started = time.monotonic()
        try:
            found = await self._in_time(asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            if isinstance(error, TimeoutError):
                found_text = f"no answer about {host!r} within {self._timeout:g} s"
            else:
                found_text = f"{host!r} cannot be resolved: {getattr(error, 'strerror', None) or error}"
            advice = "correct the host in the URL, or this machine's resolver"
            return Finding("name resolution", Verdict.UNUSABLE, found_text, advice)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        shown = ", ".join(addresses[:_SHOWN_ADDRESSES]) + (", ..." if len(addresses) > _SHOWN_ADDRESSES else "")
        return Finding("name resolution", Verdict.GOOD, f"{host} is {shown}, in {_ms(started)}")

    async def _log_in(self) -> AsyncIterator[Finding]:
        try:
            connection = await self._in_time(self._server.open_connection())
        except (CertificateError, TLSMismatchError) as error:
            yield Finding("TLS", Verdict.UNUSABLE, error.message, _TLS_ADVICE)
            return
        except AuthenticationError as error:
            yield Finding("login", Verdict.UNUSABLE, error.message, _LOGIN_ADVICE)
            return
        except StoreLoadingError as error:
            yield Finding("login", Verdict.UNUSABLE, error.message, "wait; INFO persistence says how far it is")
            return
        except StoreError as error:
            yield Finding("login", Verdict.UNUSABLE, error.message, "see what is behind this address, and its log")
            return
        self.connection = connection
        certificate = connection.stream.peer_certificate()
        if certificate is not None:
            yield certificate_finding(certificate, time.time())
        yield _login_finding(connection)

    async def _in_time(self, step: Awaitable[T]) -> T:
        async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
            return await step


_TLS_ADVICE: Final = "see the table of TLS errors in docs/operating.md"
_LOGIN_ADVICE: Final = "correct the user or the password: in the URL, ?password_file=, ?password_env= or ?credentials="


def certificate_finding(certificate: dict[str, object], now: float) -> Finding:
    """Returns what is to be said of a server's certificate, as `ssl` tells it. `now`: seconds since the epoch."""
    ends = certificate.get("notAfter")
    if not isinstance(ends, str):
        advice = "remove ?verify=false, and name the authority by ?ca_file="
        return Finding("TLS", Verdict.HURTS, "encrypted, and the server's certificate is not verified", advice)
    days = math.floor((ssl.cert_time_to_seconds(ends) - now) / 86_400)
    found = f"certificate of {_subject(certificate)}, {days} days left"
    if days < _FEW_DAYS:
        return Finding("TLS", Verdict.HURTS, found, f"renew it before {ends}")
    return Finding("TLS", Verdict.GOOD, found)


def _login_finding(connection: Connection) -> Finding:
    credential = connection.credential
    if credential.password is None and credential.username is None:
        advice = "set a password (ACL SETUSER, requirepass), unless nobody else can reach the port"
        return Finding("login", Verdict.NOTE, "the server wants no password", advice)
    who = "the default user" if credential.username is None else f"user {credential.username!r}"
    return Finding("login", Verdict.GOOD, f"as {who}")


def _subject(certificate: dict[str, object]) -> str:
    subject = certificate.get("subject")
    parts = [pair for name in subject for pair in name] if isinstance(subject, tuple) else []
    common = [value for field, value in parts if field == "commonName"]
    names = certificate.get("subjectAltName")
    others = [value for _, value in names] if isinstance(names, tuple) else []
    found = common or others[:_SHOWN_ADDRESSES] or [value for _, value in parts]
    return ", ".join(map(str, found)) or "an unnamed subject"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _ms(started: float) -> str:
    return f"{(time.monotonic() - started) * 1e3:.1f} ms"
