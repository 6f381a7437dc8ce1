"""`Signer`: requests as bytes, signed by botocore (SigV4)."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from lmcache_connect.errors import MissingExtraError

from .location import DEFAULT_REGION, Location

try:
    from botocore.auth import SIGV4_TIMESTAMP, S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import ReadOnlyCredentials
except ImportError as missing:
    raise MissingExtraError("s3://", missing.name or "botocore", "s3") from missing

__all__ = [
    "EMPTY",
    "UNSIGNED",
    "ReadOnlyCredentials",
    "Signer",
]  # the credentials: for modules without driver

UNSIGNED: Final = "UNSIGNED-PAYLOAD"
EMPTY: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of an empty payload."""

_AGENT: Final = "lmcache-connect"
_UNRESERVED: Final = "-_.~"


_S3SigV4Auth: Any = S3SigV4Auth  # its stubs leave out what a subclass needs


class _Auth(_S3SigV4Auth):  # type: ignore[misc]
    """botocore's signer. It is told the payload's hash, and does not write its log, which would hold session tokens."""

    def payload(self, request: Any) -> str:
        return str(request.context["payload"])

    def add_auth(self, request: Any) -> None:
        now = datetime.datetime.now(datetime.UTC)
        request.context["timestamp"] = now.strftime(SIGV4_TIMESTAMP)
        self._modify_request_before_signing(request)
        canonical = self.canonical_request(request)
        signature = self.signature(self.string_to_sign(request, canonical), request)
        self._inject_signature_to_request(request, signature)


class _SessionAuth(_Auth):
    """The same for S3 Express, which has a header of its own for a session's token."""

    def _modify_request_before_signing(self, request: Any) -> None:
        super()._modify_request_before_signing(request)
        token = request.headers["X-Amz-Security-Token"]
        del request.headers["X-Amz-Security-Token"]
        request.headers["X-Amz-S3session-Token"] = token


class Signer:
    """Makes the request line and the headers of requests to one bucket, with one set of credentials.

    Safe in any thread.
    """

    def __init__(
        self,
        location: Location,
        credentials: ReadOnlyCredentials | None,
        *,
        requester_pays: bool = False,
        session: bool = False,
    ) -> None:
        """`credentials` None: requests are not signed. `session`: they are those of an S3 Express session."""
        self.credentials: Final = credentials
        self._location = location
        self._region = location.region or DEFAULT_REGION
        self._service = "s3express" if location.is_express else "s3"
        self._auth = _SessionAuth if session else _Auth
        self._always = {"x-amz-request-payer": "requester"} if requester_pays else {}

    def head(
        self,
        method: str,
        name: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
        payload: str = EMPTY,
    ) -> bytes:
        """Returns the head of a request, with the empty line at its end. An empty `name` stands for the bucket.

        `length` is the body's in bytes; None where there is no body. `payload` is its SHA-256 in hexadecimal, or
        `UNSIGNED`.
        """
        path = self._location.base + quote(name, safe="/" + _UNRESERVED)
        if query:
            encoded = ((quote(key, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for key, value in query.items())
            path += "?" + "&".join(f"{key}={value}" for key, value in sorted(encoded))
        given = {**self._always, **(headers or {})}
        if self.credentials is not None:
            request = AWSRequest(method=method, url=self._location.url + path, headers=given)
            request.context["payload"] = payload
            self._auth(self.credentials, self._service, self._region).add_auth(request)
            given = dict(request.headers.items())
        given.pop("host", None)
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._location.host_header}", f"User-Agent: {_AGENT}"]
        lines += [f"{key}: {value}" for key, value in given.items()]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        text = "\r\n".join(lines)
        if {"\n", "\r"} & set(text.replace("\r\n", "")):
            raise ValueError("a header holds a line break")
        return f"{text}\r\n\r\n".encode("ascii")
