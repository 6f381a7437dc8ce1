"""`Detour`: a store's URL that leads through fault proxies, one for each of its servers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from ...errors import InvalidURLError
from ...testing import FaultProxy
from ...url import HostPort, RemoteURL

_SINGLE: Final = {"redis", "valkey", "rediss", "valkeys", "redis-ring", "valkey-ring", "rediss-ring", "valkeys-ring"}
_TLS: Final = ("rediss", "valkeys")
_DEFAULT_PORT: Final = 6379
_ELSE: Final = "redis://, rediss://, a ring, or s3:// with an http:// endpoint; or --server, whose servers are broken"


@dataclass(frozen=True)
class Server:
    """Where one server listens."""

    host: str
    port: int


def servers_of(url: RemoteURL) -> tuple[Server, ...]:
    """The servers of a store that can be reached through a proxy.

    Raises:
        InvalidURLError: there is not one way to all of them that leads through a proxy.
    """
    scheme = url.scheme.rpartition("+")[2]
    if scheme == "s3":
        endpoint = url.query.get("endpoint")
        parts = urlsplit(endpoint.get_secret_value()) if endpoint is not None else None
        if parts is None or parts.scheme != "http" or parts.hostname is None:
            raise InvalidURLError(
                url.redacted(), "--chaos cannot stand in a way over https: the server's name would not be right", _ELSE
            )
        return (Server(parts.hostname, parts.port or 80),)
    if scheme in _SINGLE:
        found = tuple(Server(host.host, host.port or _DEFAULT_PORT) for host in url.hosts or (_LOCAL,))
        if len({server.host for server in found}) > 1 and _checks_names(url):
            reason = "--chaos cannot stand in a way over TLS to several names"
            raise InvalidURLError(url.redacted(), reason, "server_name=, which all of them have")
        return found
    if scheme.endswith(("-sentinel", "-cluster")):
        reason = "--chaos cannot stand in the way: the servers tell their clients other addresses than a proxy's"
    else:
        reason = "--chaos knows no way to this store"
    raise InvalidURLError(url.redacted(), reason, _ELSE)


def detour(url: RemoteURL, proxies: Sequence[FaultProxy]) -> str:
    """The URL with the proxies in place of the servers, in the order of `servers_of`."""
    raw = url.raw.get_secret_value()
    if url.scheme.rpartition("+")[2] == "s3":
        endpoint = quote(f"http://{proxies[0].host}:{proxies[0].port}", safe="")
        return re.sub(r"([?&]endpoint=)[^&]*", lambda found: found[1] + endpoint, raw, count=1)
    head, _, rest = raw.partition("://")
    authority = re.match(r"[^/?#]*", rest)
    assert authority is not None  # noqa: S101  # it may be empty
    credentials, at, _ = authority[0].rpartition("@")
    hosts = ",".join(f"{proxy.host}:{proxy.port}" for proxy in proxies)
    changed = f"{head}://{credentials}{at}{hosts}{rest[authority.end() :]}"
    if _checks_names(url):
        changed += f"{'&' if '?' in changed else '?'}server_name={quote(servers_of(url)[0].host, safe='')}"
    return changed


_LOCAL: Final = HostPort(host="localhost")


def _checks_names(url: RemoteURL) -> bool:
    """Whether the client compares the host's name with the certificate's."""
    is_tls = url.scheme.rpartition("+")[2].startswith(_TLS)
    return is_tls and "server_name" not in url.query
