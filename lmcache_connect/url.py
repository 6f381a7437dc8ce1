"""`RemoteURL`: the URL of a store, parsed once into a frozen value that hides its secrets."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, unquote, unquote_plus

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, SecretStr, ValidationError

from .errors import ANY_OPTION, InvalidOptionError, InvalidURLError, UnknownOptionError
from .known_secrets import HIDDEN, clean, know, know_login
from .redaction import HOST_PATTERN, holds_secret_option, redact_url, redacted_option, secrets_of_setting, wrong_in_path

MAX_URL_LENGTH: Final = 16_384
_HOSTS_LIMIT: Final = 256
_SHAPE: Final = "scheme://[user[:password]@]host[:port][,host:port...][/path][?option=value]"
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_LOCATION: Final = re.compile(r"([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)  # RFC 3986, appendix B
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]")


class HostPort(BaseModel):
    """One host of a URL; `port` is None where the URL names none."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{quote(self.host, safe=':.')}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


class URLOptions(BaseModel):
    """Base of an adapter's typed options: one field for each option of the query, validated by pydantic.

    A subclass adds its fields. A query may name these and nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def option_names(cls) -> list[str]:
        """What a query may name, in the order of the fields."""
        return [field.alias or name for name, field in cls.model_fields.items()]


OptionsT = TypeVar("OptionsT", bound=URLOptions)


def _as_dict(query: Mapping[str, SecretStr]) -> dict[str, SecretStr]:
    return dict(query)  # `dict` itself has no signature, which pydantic before 2.9 asks for


class RemoteURL(BaseModel):
    """A parsed store URL. Percent-escapes are decoded once. `repr`, `str` and `redacted()` show no secret.

    Attributes:
        scheme: in lower case, without `://`.
        hosts: every host in the order given; empty for a URL with a path alone, such as `unix:///run/redis.sock`.
        username: decoded; None where the URL has no username.
        password: decoded, in a `SecretStr`; None where the URL has no password.
        path: decoded, with its leading slash; "" where the URL has no path.
        raw: the URL as it was given, in a `SecretStr`.
        query: decoded options in the order given; values of secret-looking options are kept out of every repr.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True)

    scheme: str
    hosts: tuple[HostPort, ...] = ()
    username: str | None = None
    password: SecretStr | None = None
    path: str = ""
    raw: SecretStr = SecretStr("")
    query: Annotated[
        Mapping[str, SecretStr],
        AfterValidator(MappingProxyType),
        PlainSerializer(_as_dict, return_type=dict[str, SecretStr]),
    ] = Field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, url: str | RemoteURL) -> RemoteURL:
        """Parses a URL. One that is parsed already is returned as it is.

        Raises:
            InvalidURLError: it cannot be understood. The password is not shown.
        """
        if isinstance(url, RemoteURL):
            return url
        if not isinstance(url, str):
            raise InvalidURLError(type(url).__name__, "it is not a string", _SHAPE)
        hidden = redact_url(url)
        if len(url) > MAX_URL_LENGTH:
            raise InvalidURLError(hidden[:80] + "...", f"{len(url)} characters", f"at most {MAX_URL_LENGTH}")
        if (found := re.search(r"[\x00-\x20\x7f]", url)) is not None:
            raise InvalidURLError(hidden, f"{found.group()!r} at position {found.start()}", "it percent-encoded")
        scheme, sign, _ = url.partition("://")
        scheme = scheme.lower()
        if not sign or _SCHEME.fullmatch(scheme) is None:
            raise InvalidURLError(hidden, "the scheme is missing", _SHAPE)
        location = url.partition("://")[2]
        # Not urllib's urlsplit: its errors contain parts of the URL, which may be a password.
        match = _LOCATION.fullmatch(location)
        assert match is not None  # noqa: S101  # every part of the pattern may be empty
        authority, path, query, fragment = match.groups()
        credentials, at, hosts = authority.rpartition("@")
        if location.count("@") > len(at):
            # What follows a raw '/' in a password would be taken for a host or a path, and shown.
            raise InvalidURLError(
                hidden,
                "a raw '/', '?', '#' or '@' stands in the credentials or a raw '@' behind them",
                "them as %2F, %3F, %23, %40",
            )
        if fragment is not None:
            raise InvalidURLError(hidden, "'#' starts a fragment, and a store URL has no fragment", "'%23'")
        if wrong_in_path(path) is not None and "&" in path:
            raise InvalidURLError(hidden, "a raw '&' stands in the path", "'?' before the first option, or '%26'")
        if (wrong := wrong_in_path(path)) is not None and path[wrong] in ",;":
            raise InvalidURLError(hidden, "an option stands in the path", "'?' before the first option")
        user, colon, password = credentials.partition(":")
        if holds_secret_option(user):
            raise InvalidURLError(hidden, "an option stands behind the host", "'?' before the first option")
        return cls(
            scheme=scheme,
            hosts=_hosts(hidden, hosts),
            username=_decoded(hidden, user) or None,
            password=SecretStr(_decoded(hidden, password)) if colon else None,
            path=_decoded(hidden, path),
            raw=SecretStr(url),
            query=_options(hidden, query),
        )

    def model_post_init(self, _context: Any, /) -> None:
        """Makes the URL's secrets known, for as long as it or a copy of it lives."""
        holders = [self.raw] if self.raw.get_secret_value() else []
        if self.password is not None:
            for holder in (self.password, *holders):
                know_login(holder, self.username, self.password.get_secret_value())
        for name, value in self.query.items():
            if secrets := tuple(secrets_of_setting(name, value.get_secret_value())):
                for holder in (value, *holders):
                    know(holder, *secrets)

    @property
    def host(self) -> str:
        """The first host, or "" where the URL has no host."""
        return self.hosts[0].host if self.hosts else ""

    @property
    def port(self) -> int | None:
        """The first host's port, or None where the URL does not name it."""
        return self.hosts[0].port if self.hosts else None

    def single_host(self, default_port: int) -> tuple[str, int]:
        """Host and port of a store that is one server.

        Raises:
            InvalidURLError: the URL has no host, or more than one.
        """
        if len(self.hosts) != 1:
            raise InvalidURLError(self.redacted(), f"{len(self.hosts)} hosts", "exactly one host[:port]")
        return self.host, self.port if self.port is not None else default_port

    def several_hosts(self, default_port: int) -> tuple[tuple[str, int], ...]:
        """Hosts and ports of a store that has one or several servers, in the order given.

        Raises:
            InvalidURLError: the URL has no host, a port of 0, or the same host and port twice.
        """
        if not self.hosts:
            raise InvalidURLError(self.redacted(), "no host", f"at least one: {_SHAPE}")
        servers = tuple((each.host, default_port if each.port is None else each.port) for each in self.hosts)
        seen: set[tuple[str, int]] = set()
        for host, port in servers:
            if port == 0:
                raise InvalidURLError(self.redacted(), f"the port of {host} is 0", "a number from 1 to 65535")
            server = (host.lower(), port)
            if server in seen:
                raise InvalidURLError(self.redacted(), f"{HostPort(host=host, port=port)} is given twice", "it once")
            seen.add(server)
        return servers

    def options(self, model: type[OptionsT]) -> OptionsT:
        """The query as an adapter's typed options.

        A connector gets those of its URL from `ConnectorContext.options`, where they are validated already.

        Raises:
            UnknownOptionError: an option that the model does not have.
            InvalidOptionError: a value of the wrong type or range. A secret's value is not shown.
        """
        known = model.option_names()
        for name in self.query:
            if name not in known:
                raise UnknownOptionError(self.redacted(), name, known)
        try:
            return model.model_validate({name: value.get_secret_value() for name, value in self.query.items()})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            name = str(first["loc"][0]) if first["loc"] else ANY_OPTION
            value = self.query[name].get_secret_value() if name in self.query else ""
            expected = first["msg"].removeprefix("Value error, ").removeprefix("expected ")
            shown = redacted_option(name, value).partition("=")[2] if value else ""
            if shown != value:
                expected = expected.replace(value, shown)  # the message of an adapter's own validator may contain it
            raise InvalidOptionError(self.redacted(), name, shown, expected) from None

    def unwrapped(self, prefix: str) -> RemoteURL:
        """The URL inside `prefix+<scheme>://...`: without `prefix+`, and without the options `prefix_...`.

        Raises:
            InvalidURLError: this URL does not begin with `prefix+`, or what follows is not a URL.
        """
        raw = self.raw.get_secret_value()
        if not self.scheme.startswith(f"{prefix}+"):
            raise InvalidURLError(self.redacted(), f"it does not begin with '{prefix}+'", f"{prefix}+{_SHAPE}")
        location, sign, query = raw[len(prefix) + 1 :].partition("?")
        fields = [field for field in query.split("&") if not _option_name(field).startswith(f"{prefix}_")]
        return RemoteURL.parse(location + (sign + "&".join(fields) if fields != [""] and fields else ""))

    def with_options_of(self, prefix: str) -> RemoteURL:
        """This URL with the options `prefix_...` alone. `raw` stays as it is."""
        own = {name: value for name, value in self.query.items() if name.startswith(f"{prefix}_")}
        return self.model_copy(update={"query": MappingProxyType(own)})

    def redacted(self) -> str:
        """The URL for people and logs, in one line: the password and secret-looking options are `***`."""
        credentials = quote(self.username or "", safe="!$'()*+;=")
        if self.password is not None:
            credentials += f":{HIDDEN}"
        credentials += "@" if credentials else ""
        query = "&".join(redacted_option(name, value.get_secret_value()) for name, value in self.query.items())
        hosts = ",".join(map(str, self.hosts))
        return clean(_in_one_line(f"{self.scheme}://{credentials}{hosts}{self.path}" + (f"?{query}" if query else "")))

    def label(self) -> str:
        """Scheme, hosts and path, in one line. It names the store in logs, errors and metrics."""
        return clean(_in_one_line(f"{self.scheme}://{','.join(map(str, self.hosts))}{self.path}"))

    def __str__(self) -> str:
        return self.redacted()

    def __repr__(self) -> str:
        return f"RemoteURL({self.redacted()!r})"

    def __repr_args__(self) -> Sequence[tuple[str | None, Any]]:
        return [(None, self.redacted())]

    def __hash__(self) -> int:
        return hash((self.scheme, self.hosts, self.username, self.path))

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> RemoteURL:
        return self.model_copy()  # frozen through and through

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).model_validate, ({**self.__dict__, "query": dict(self.query)},)


def _in_one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: quote(found.group()), text)


def _option_name(field: str) -> str:
    return unquote_plus(field.partition("=")[0])


def _options(hidden: str, query: str | None) -> dict[str, SecretStr]:
    try:
        pairs = parse_qsl(query or "", keep_blank_values=True, strict_parsing=bool(query), max_num_fields=256)
    except ValueError:
        raise InvalidURLError(hidden, "its query is not option=value[&option=value...]", _SHAPE) from None
    options: dict[str, SecretStr] = {}
    for name, value in pairs:
        if name in options:
            raise InvalidURLError(hidden, f"the option {name!r} is given twice", "each option once")
        options[name] = SecretStr(value)
    return options


_SCHEME_OF_ANOTHER: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
"""What is left of `scheme://`, as the last of the hosts, where another URL begins among them."""


def _hosts(hidden: str, authority: str) -> tuple[HostPort, ...]:
    if not authority:
        return ()
    items = authority.split(",")
    if len(items) > 1 and _SCHEME_OF_ANOTHER.fullmatch(items[-1]):
        raise InvalidURLError(hidden, "several URLs joined by a comma", f"one, with its hosts joined: {_SHAPE}")
    if len(items) > _HOSTS_LIMIT:
        raise InvalidURLError(hidden, f"{len(items)} hosts", f"at most {_HOSTS_LIMIT}")
    return tuple(_host(hidden, item) for item in items)


def _host(hidden: str, item: str) -> HostPort:
    match = HOST_PATTERN.fullmatch(item)
    port = int(match["port"]) if match is not None and match["port"] else None
    if match is None or (port is not None and port > 65_535):
        # What is not host[:port] is not shown: in `redis://user:password` it is the password.
        shown = item if match is not None else redact_url(f"x://{item}")[len("x://") :]
        raise InvalidURLError(hidden, f"{shown!r} is not host[:port] with a port from 0 to 65535", _SHAPE)
    if match["six"] is None:
        host = _decoded(hidden, match["name"])
        if _CONTROL.search(host) is not None:
            raise InvalidURLError(hidden, "a host holds a space or a control character", _SHAPE)
        return HostPort(host=host, port=port)
    host = _decoded(hidden, match["six"])
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise InvalidURLError(hidden, f"{item!r} is not an IPv6 address", "one such as [::1]:6379") from None
    return HostPort(host=host, port=port)


def _decoded(hidden: str, text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text) is not None:
        raise InvalidURLError(hidden, "a '%' is not followed by two hexadecimal digits", "'%25' for a plain '%'")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidURLError(hidden, "its percent-escapes are not UTF-8", "percent-encoded UTF-8") from None
