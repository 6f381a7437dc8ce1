"""`Location`: the bucket that an `s3://` URL names, and where it is."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from lmcache_connect import InvalidURLError, RemoteURL
from lmcache_connect.errors import InvalidOptionError

from .options import S3Options

DEFAULT_REGION: Final = "us-east-1"

_AWS: Final = re.compile(
    r"(?P<bucket>.+)\.s3(?:express-(?P<zone>[a-z0-9-]+))?[.-](?P<region>[a-z]{2}[a-z0-9-]+-\d)"
    r"\.(?P<domain>amazonaws\.com(?:\.cn)?)"
)
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_SHAPE: Final = "s3://bucket[/prefix][?endpoint=http://host:port&region=...]"


@dataclass(frozen=True)
class Location:
    """Where requests go. `region` None: to be found out; `base`: the path before names, encoded, with its slash."""

    bucket: str
    prefix: str
    host: str
    port: int
    is_tls: bool
    region: str | None
    host_header: str
    base: str
    is_express: bool

    @property
    def is_loopback(self) -> bool:
        """Whether the store is on this machine."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """Scheme and host, as signed."""
        return f"{'https' if self.is_tls else 'http'}://{self.host_header}"


def locate(url: RemoteURL, options: S3Options, default_region: str | None = None) -> Location:
    """What the URL names. `default_region` is used where neither it nor its options say which.

    Raises:
        InvalidURLError: there is no bucket, or it cannot be one.
        InvalidOptionError: the endpoint is no address, or the prefix is said twice.
    """
    host, port = url.single_host(0)
    if url.username is not None or url.password is not None:
        raise InvalidURLError(url.redacted(), "credentials stand before the bucket", "them as options")
    path = url.path.strip("/")
    if path and options.prefix is not None:
        raise InvalidOptionError(url.redacted(), "prefix", options.prefix, "one prefix; the path is another one")
    if any(part in {"", ".", ".."} for part in path.split("/")) and path:
        raise InvalidURLError(url.redacted(), f"the path {url.path!r} is no prefix", _SHAPE)
    prefix = path or (options.prefix or "").strip("/")
    named = _AWS.fullmatch(host)
    if named is not None and options.endpoint is None:
        if port:
            raise InvalidURLError(url.redacted(), "a port stands behind the name of an AWS host", _SHAPE)
        region = options.region or named["region"]
        return Location(named["bucket"], prefix, host, 443, True, region, host, "/", bool(named["zone"]))
    if port:
        raise InvalidURLError(url.redacted(), "a port stands behind the bucket's name", "it in ?endpoint=")
    if _BUCKET.fullmatch(host) is None:
        raise InvalidURLError(url.redacted(), f"{host!r} is no name of a bucket", _SHAPE)
    region = options.region or default_region
    if options.endpoint is None:
        name = f"s3.{region or DEFAULT_REGION}.amazonaws.com"
        # A certificate for *.s3... is for one label, so a bucket with dots goes into the path.
        if options.addressing == "path" or (options.addressing == "auto" and "." in host):
            return Location(host, prefix, name, 443, True, region, name, f"/{host}/", False)
        return Location(host, prefix, f"{host}.{name}", 443, True, region, f"{host}.{name}", "/", False)
    return _at_endpoint(url, options, host, prefix, region)


def _at_endpoint(url: RemoteURL, options: S3Options, bucket: str, prefix: str, region: str | None) -> Location:
    expected = "http://host[:port] or https://host[:port]"
    text = options.endpoint or ""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidOptionError(url.redacted(), "endpoint", "***", expected) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise InvalidOptionError(url.redacted(), "endpoint", "***", expected)
    if parts.username is not None or parts.password is not None:
        raise InvalidOptionError(url.redacted(), "endpoint", "***", f"{expected}, without credentials")
    if re.fullmatch(r"[A-Za-z0-9._:-]+", parts.hostname) is None or port == 0:
        raise InvalidOptionError(url.redacted(), "endpoint", "***", expected)
    is_tls = parts.scheme == "https"
    shown = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    is_virtual = options.addressing == "virtual"
    header = f"{bucket}.{shown}" if is_virtual else shown
    if port is not None and port != (443 if is_tls else 80):
        header += f":{port}"
    base = quote(parts.path.rstrip("/"), safe="/-_.~%")
    return Location(
        bucket,
        prefix,
        parts.hostname,  # of a virtual host too: who names an endpoint may have no wildcard in the DNS
        port or (443 if is_tls else 80),
        is_tls,
        region,
        header,
        f"{base}/" if is_virtual else f"{base}/{bucket}/",
        False,
    )
