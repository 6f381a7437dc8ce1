"""`Reaching`: the steps from a name to a connection, each of them a finding, so that it is known which one fails."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Final, TypeVar

from ..contract import Finding, Verdict
from ..transport import LoopStream, StreamClosedError, open_tcp_stream, open_unix_stream

T = TypeVar("T")

_FEW_DAYS: Final = 21
"""A certificate that ends sooner has to be renewed now."""

_SHOWN: Final = 3


class Reaching:
    """The first steps of a diagnosis. All of them have one deadline together, which begins with the first.

    A connector's own steps, such as a login, run by `in_time`. What raises `TimeoutError` becomes `silence()`.
    """

    def __init__(self, timeout: float) -> None:
        """`timeout`: seconds for all steps together."""
        self._timeout: Final = timeout
        self._deadline = math.inf
        self._is_connected = False

    async def connect(self, host: str, port: int) -> AsyncIterator[Finding]:
        """Resolves a name, and connects once. The last finding is `UNUSABLE` where that fails.

        Raises:
            TimeoutError: the deadline has passed.
        """
        self._begin()
        if not _is_address(host):
            finding = await self._resolve(host, port)
            yield finding
            if finding.verdict is Verdict.UNUSABLE:
                return
        yield await self._connect(f"{host}:{port}", open_tcp_stream(host, port))

    async def connect_to_path(self, path: str) -> Finding:
        """Connects to a unix socket once. Raises as `connect` does."""
        self._begin()
        return await self._connect(path, open_unix_stream(path))

    async def in_time(self, step: Awaitable[T]) -> T:
        """Awaits a step of the connector's own.

        Raises:
            TimeoutError: the deadline has passed.
        """
        self._begin()
        async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
            return await step

    def silence(self) -> Finding:
        """What is found where the deadline has passed."""
        if self._is_connected:
            found = f"the server takes the connection and does not answer within {self._timeout:g} s"
            advice = "see whether the process is stopped, swaps, or is busy with a long command"
            return Finding("answer", Verdict.UNUSABLE, found, advice)
        advice = "see whether the host is up, and whether a firewall drops what is sent to the port"
        return Finding("connect", Verdict.UNUSABLE, f"no answer within {self._timeout:g} s", advice)

    def _begin(self) -> None:
        if self._deadline == math.inf:
            self._deadline = time.monotonic() + self._timeout

    async def _connect(self, where: str, opening: Awaitable[LoopStream]) -> Finding:
        started = time.monotonic()
        try:
            stream = await self.in_time(opening)
        except StreamClosedError as error:
            advice = "see whether the server runs, and listens on this address and port"
            return Finding("connect", Verdict.UNUSABLE, str(error), advice)
        stream.close()
        self._is_connected = True
        return Finding("connect", Verdict.GOOD, f"{where} in {_ms(started)}")

    async def _resolve(self, host: str, port: int) -> Finding:
        started = time.monotonic()
        try:
            found = await self.in_time(asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except TimeoutError:
            text = f"no answer about {host!r} within {self._timeout:g} s"
            return Finding("name resolution", Verdict.UNUSABLE, text, _RESOLVER)
        except (OSError, UnicodeError) as error:
            text = f"{host!r} cannot be resolved: {getattr(error, 'strerror', None) or error}"
            return Finding("name resolution", Verdict.UNUSABLE, text, _RESOLVER)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        shown = ", ".join(addresses[:_SHOWN]) + (", ..." if len(addresses) > _SHOWN else "")
        return Finding("name resolution", Verdict.GOOD, f"{host} is {shown}, in {_ms(started)}")


_RESOLVER: Final = "correct the host in the URL, or this machine's resolver"


def certificate_finding(certificate: Mapping[str, Any], now: float) -> Finding:
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


def _subject(certificate: Mapping[str, Any]) -> str:
    parts = [pair for name in certificate.get("subject", ()) for pair in name]
    common = [value for field, value in parts if field == "commonName"]
    others = [value for _, value in certificate.get("subjectAltName", ())]
    found = common or others[:_SHOWN] or [value for _, value in parts]
    return ", ".join(map(str, found)) or "an unnamed subject"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _ms(started: float) -> str:
    return f"{(time.monotonic() - started) * 1e3:.1f} ms"
