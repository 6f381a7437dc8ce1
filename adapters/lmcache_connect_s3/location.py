"""`Location`: the bucket that an `s3://` URL names, and where it is. `locate` validates it once, for the connector."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from functools import cached_property
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
    """Where requests to a bucket go.

    Attributes:
        bucket: its name.
        prefix: what the names of its objects begin with, without slashes at the ends; empty for the whole bucket.
        region: None where neither the URL nor its options name one. See `in_region`.
        host: the name or address to connect to.
        port: the port to connect to.
        is_tls: whether connections use TLS.
        server_name: the server's name in requests and in its certificate. It may begin with the bucket's.
        base: the path before an object's name, percent-encoded, with a slash at its end.
        is_aws: whether AWS holds the bucket, so that the server's name depends on the region.
        is_express: whether it is an S3 Express bucket, which takes requests with credentials of a session.
    """

    bucket: str
    prefix: str
    region: str | None
    host: str
    port: int
    is_tls: bool
    server_name: str
    base: str
    is_aws: bool = False
    is_express: bool = False

    def in_region(self, region: str | None) -> Location:
        """Returns the location where its region is `region`, unless the URL or its options say another one."""
        if self.region is not None or region is None:
            return self
        if self.is_aws:
            return _at_aws(self.bucket, self.prefix, region, is_in_path=self.base != "/")
        return replace(self, region=region)

    @cached_property
    def is_loopback(self) -> bool:
        """Whether the store is on this machine."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_of_aws(self) -> bool:
        """Whether the server is one of AWS, also where an endpoint names it."""
        return self.is_aws or self.host.rstrip(".").lower().endswith((".amazonaws.com", ".amazonaws.com.cn"))

    @property
    def host_header(self) -> str:
        """The server's name, and its port where that is not the usual one."""
        name = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return name if self.port == (443 if self.is_tls else 80) else f"{name}:{self.port}"

    @property
    def url(self) -> str:
        """Scheme and host, as signed."""
        return f"{'https' if self.is_tls else 'http'}://{self.host_header}"


def locate(url: RemoteURL, options: S3Options) -> Location:
    """Returns the location of the bucket that the URL and its options name.

    Raises:
        InvalidURLError: there is no bucket, or its name is not possible.
        InvalidOptionError: the endpoint is not an address, or path and options both name a prefix.
    """
    host, port = url.single_host(0)
    if url.username is not None or url.password is not None:
        raise InvalidURLError(url.redacted(), "credentials stand before the bucket", "them as options")
    prefix = _prefix(url, options)
    named = _AWS.fullmatch(host)
    if named is not None and options.endpoint is None:
        if port:
            raise InvalidURLError(url.redacted(), "a port stands behind the name of an AWS host", _SHAPE)
        region = options.region or named["region"]
        express = bool(named["zone"])
        return Location(named["bucket"], prefix, region, host, 443, True, host, "/", is_aws=True, is_express=express)
    if port:
        raise InvalidURLError(url.redacted(), "a port stands behind the bucket's name", "it in ?endpoint=")
    if _BUCKET.fullmatch(host) is None:
        raise InvalidURLError(url.redacted(), f"{host!r} cannot be the name of a bucket", _SHAPE)
    if options.endpoint is not None:
        return _at_endpoint(url, options, options.endpoint, host, prefix)
    # A certificate for *.s3... is for one label, so a bucket with dots goes into the path.
    is_in_path = options.addressing == "path" or (options.addressing == "auto" and "." in host)
    return _at_aws(host, prefix, options.region, is_in_path=is_in_path)


def _prefix(url: RemoteURL, options: S3Options) -> str:
    path = url.path.strip("/")
    if path and options.prefix is not None:
        raise InvalidOptionError(url.redacted(), "prefix", options.prefix, "one prefix; the path is another one")
    if path and any(part in {"", ".", ".."} for part in path.split("/")):
        raise InvalidURLError(url.redacted(), f"the path {url.path!r} cannot be a prefix", _SHAPE)
    return path or (options.prefix or "").strip("/")


def _at_aws(bucket: str, prefix: str, region: str | None, *, is_in_path: bool) -> Location:
    name = f"s3.{region or DEFAULT_REGION}.amazonaws.com"
    base = f"/{bucket}/" if is_in_path else "/"
    if not is_in_path:
        name = f"{bucket}.{name}"
    return Location(bucket, prefix, region, name, 443, True, name, base, is_aws=True)


def _at_endpoint(url: RemoteURL, options: S3Options, endpoint: str, bucket: str, prefix: str) -> Location:
    expected = "http://host[:port] or https://host[:port]"
    try:
        parts = urlsplit(endpoint)
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
    base = quote(parts.path.rstrip("/"), safe="/-_.~%")
    name = parts.hostname  # also of a virtual host: an endpoint need not have a wildcard in the DNS
    if options.addressing == "virtual":
        server_name, base = f"{bucket}.{name}", f"{base}/"
    else:
        server_name, base = name, f"{base}/{bucket}/"
    return Location(bucket, prefix, options.region, name, port or (443 if is_tls else 80), is_tls, server_name, base)
