"""The URL of a store, parsed once into a frozen value that hides its secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from .errors import InvalidOptionError, InvalidURLError, UnknownOptionError

MAX_URL_LENGTH: Final = 16_384
_HOSTS_LIMIT: Final = 256
_SHAPE: Final = "scheme://[user[:password]@]host[:port][,host:port...][/path][?option=value]"
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_SECRET_NAME: Final = re.compile(r"pass|secret|token|credential|key$", re.IGNORECASE)
_HIDDEN: Final = "***"


class HostPort(BaseModel):
    """One host of a URL; `port` is None where the URL names none."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


class URLOptions(BaseModel):
    """Base of an adapter's typed options: one field per query option, validated by pydantic.

    A subclass adds its fields; the query may name these and nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


OptionsT = TypeVar("OptionsT", bound=URLOptions)


class RemoteURL(BaseModel):
    """A parsed store URL. Percent-escapes are decoded, once; `repr`, `str` and `redacted()` show no secret.

    Attributes:
        scheme: in lower case, without `://`.
        hosts: every host in the order given; empty for a URL with a path alone, such as `unix:///run/redis.sock`.
        username: decoded; None where there is none.
        password: decoded, in a `SecretStr`; None where there is none.
        path: decoded, with its leading slash; "" where there is none.
        raw: the URL as it was given, in a `SecretStr`.
        query: decoded options in the order given; values of secret-looking options are kept out of every repr.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    scheme: str
    hosts: tuple[HostPort, ...] = ()
    username: str | None = None
    password: SecretStr | None = None
    path: str = ""
    raw: SecretStr = SecretStr("")
    query: Mapping[str, SecretStr] = MappingProxyType({})

    @classmethod
    def parse(cls, url: str | RemoteURL) -> RemoteURL:
        """The value of a URL.

        Raises:
            InvalidURLError: what is wrong, with the password hidden.
        """
        if isinstance(url, RemoteURL):
            return url
        if not isinstance(url, str):
            raise InvalidURLError(type(url).__name__, "it is not a string", _SHAPE)
        hidden = redact(url)
        if len(url) > MAX_URL_LENGTH:
            raise InvalidURLError(hidden[:80] + "...", f"{len(url)} characters", f"at most {MAX_URL_LENGTH}")
        if (found := re.search(r"[\x00-\x20\x7f]", url)) is not None:
            raise InvalidURLError(hidden, f"{found.group()!r} at position {found.start()}", "it percent-encoded")
        scheme, sign, _ = url.partition("://")
        scheme = scheme.lower()
        if not sign or _SCHEME.fullmatch(scheme) is None:
            raise InvalidURLError(hidden, "the scheme is missing", _SHAPE)
        try:
            parts = urlsplit(url)
            query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), max_num_fields=256)
        except ValueError as error:
            raise InvalidURLError(hidden, redact(str(error)), _SHAPE) from None
        if "@" in url.partition("://")[2].rpartition("@")[0] or "@" in parts.path + parts.query + parts.fragment:
            # Without this, what follows a raw '/' in a password would be taken, and shown, as a host or a path.
            raise InvalidURLError(
                hidden,
                "a raw '/', '?', '#' or '@' stands in the credentials or a raw '@' behind them",
                "them as %2F, %3F, %23, %40",
            )
        if parts.fragment:
            raise InvalidURLError(hidden, "'#' starts a fragment, which a store URL has none of", "'%23'")
        options: dict[str, SecretStr] = {}
        for name, value in query:
            if name in options:
                raise InvalidURLError(hidden, f"the option {name!r} is given twice", "each option once")
            options[name] = SecretStr(value)
        username, password = _credentials(hidden, parts)
        return cls(
            scheme=scheme,
            hosts=_hosts(hidden, parts),
            username=username,
            password=password,
            path=_decoded(hidden, parts.path),
            raw=SecretStr(url),
            query=MappingProxyType(options),
        )

    @property
    def host(self) -> str:
        """The first host, or "" where there is none."""
        return self.hosts[0].host if self.hosts else ""

    @property
    def port(self) -> int | None:
        """The first host's port, or None where there is none."""
        return self.hosts[0].port if self.hosts else None

    def single_host(self, default_port: int) -> tuple[str, int]:
        """Host and port of a store that is one server.

        Raises:
            InvalidURLError: no host, or more than one.
        """
        if len(self.hosts) != 1:
            raise InvalidURLError(self.redacted(), f"{len(self.hosts)} hosts", "exactly one host[:port]")
        return self.host, self.port if self.port is not None else default_port

    def options(self, model: type[OptionsT]) -> OptionsT:
        """The query as an adapter's typed options.

        Raises:
            UnknownOptionError: an option that the adapter does not have, with those that it has.
            InvalidOptionError: a value of the wrong type or range. A secret's value is not shown.
        """
        known = [field.alias or name for name, field in model.model_fields.items()]
        for name in self.query:
            if name not in known:
                raise UnknownOptionError(self.redacted(), name, known)
        try:
            return model.model_validate({name: value.get_secret_value() for name, value in self.query.items()})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "?"
            shown = _HIDDEN if _SECRET_NAME.search(name) else self._option(name)
            raise InvalidOptionError(self.redacted(), name, shown, first["msg"]) from None

    def _option(self, name: str) -> str:
        value = self.query.get(name)
        return "" if value is None else value.get_secret_value()

    def redacted(self) -> str:
        """The URL for people and logs: the password and secret-looking options are `***`."""
        credentials = self.username or ""
        if self.password is not None:
            credentials += f":{_HIDDEN}"
        credentials += "@" if credentials else ""
        query = "&".join(
            f"{name}={_HIDDEN if _SECRET_NAME.search(name) else value.get_secret_value()}"
            for name, value in self.query.items()
        )
        hosts = ",".join(map(str, self.hosts))
        return f"{self.scheme}://{credentials}{hosts}{self.path}" + (f"?{query}" if query else "")

    def label(self) -> str:
        """Scheme, hosts and path alone: what names a store in logs, errors and metrics."""
        return f"{self.scheme}://{','.join(map(str, self.hosts))}{self.path}"

    def __str__(self) -> str:
        return self.redacted()

    def __repr__(self) -> str:
        return f"RemoteURL({self.redacted()!r})"

    def __repr_args__(self) -> Sequence[tuple[str | None, Any]]:
        return [(None, self.redacted())]


def redact(url: str) -> str:
    """`url`, however malformed, with everything hidden that may be a secret."""
    scheme, sign, rest = url.partition("://")
    if not sign:
        scheme, rest = "", url
    # A raw '/', '?' or '#' in a password is malformed, and then the last '@' still ends the credentials.
    credentials, at, location = rest.rpartition("@")
    if at:
        user = re.split(r"[:/?#]", credentials, maxsplit=1)[0]
        rest = f"{user}:{_HIDDEN}@{location}" if user != credentials else f"{user}@{location}"
    rest = re.sub(
        r"([?&;])([^=&;]*)=([^&;#]*)",
        lambda m: f"{m[1]}{m[2]}={_HIDDEN if _SECRET_NAME.search(unquote(m[2])) else m[3]}",
        rest,
    )
    return f"{scheme}{sign}{rest}"


def _credentials(hidden: str, parts: SplitResult) -> tuple[str | None, SecretStr | None]:
    netloc, at, _ = parts.netloc.rpartition("@")
    if not at:
        return None, None
    user, colon, password = netloc.partition(":")
    return (
        _decoded(hidden, user) or None,
        SecretStr(_decoded(hidden, password)) if colon else None,
    )


def _hosts(hidden: str, parts: SplitResult) -> tuple[HostPort, ...]:
    netloc = parts.netloc.rpartition("@")[2]
    if not netloc:
        return ()
    items = netloc.split(",")
    if len(items) > _HOSTS_LIMIT:
        raise InvalidURLError(hidden, f"{len(items)} hosts", f"at most {_HOSTS_LIMIT}")
    return tuple(_host(hidden, item) for item in items)


def _host(hidden: str, item: str) -> HostPort:
    match = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[^:]*))?", item)
    if match is None:
        raise InvalidURLError(hidden, f"the host {item!r} is not host[:port]", _SHAPE)
    port = None
    if (digits := match["port"]) is not None:
        if re.fullmatch(r"[0-9]{1,5}", digits) is None or int(digits) > 65_535:
            raise InvalidURLError(hidden, f"the port of {item!r} is {digits!r}", "a number from 0 to 65535")
        port = int(digits)
    return HostPort(host=_decoded(hidden, match["six"] or match["name"]), port=port)


def _decoded(hidden: str, text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text) is not None:
        raise InvalidURLError(hidden, "a '%' is not followed by two hexadecimal digits", "'%25' for a plain '%'")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidURLError(hidden, "its percent-escapes are not UTF-8", "percent-encoded UTF-8") from None
