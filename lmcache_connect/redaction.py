"""What is shown of URLs, options and settings: what may be a secret by its place or its name is hidden.

Known secrets are found by their value as well, wherever they stand: see `known_secrets`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote, unquote_plus

from .known_secrets import HIDDEN, clean

# A URL's beginning: at the start of a text, or after a space, a quote or a bracket in it.
_BEGINNING: Final = re.compile(r"(?<![^\s'\"(<\[])[a-z][a-z0-9+.-]*://", re.IGNORECASE)

HOST_PATTERN: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?)\]|(?P<name>(?:[\w.~-]|%[0-9A-Fa-f]{2})+))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
"""One `host[:port]` of a URL, with an IPv6 address in brackets. A name has letters, digits, `.`, `-`, `_`, `~`, `%`."""

_USER: Final = re.compile(r"(?:[^\s:@/?#\[\],%]|%[0-9A-Fa-f]{2})*")
_LOCATION: Final = re.compile(r"([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
_FIELD: Final = re.compile(r"[^\s=&]+=[^\s&]*")

_SECRET_NAME: Final = re.compile(
    r"pass|pwd|secret|token|credential|signature|auth|cookie|jwt|bearer|session.?id|key$"
    r"|(?:^|[^a-z])(?:sig|sas|psk|pin|otp)(?:$|[^a-z])",
    re.IGNORECASE,
)
_REFERENCE: Final = re.compile(r"[._-](?:file|path|env)$", re.IGNORECASE)

_SWITCHES: Final = frozenset({"true", "false", "yes", "no", "on", "off", "none", "null", "auto", "always", "never"})

_NESTED: Final = 3
"""URLs inside an option of a URL are looked into so deep."""


def redact(text: str) -> str:
    """A URL, or a text with one in it, with everything hidden that may be a secret. The URL may be malformed."""
    found = _BEGINNING.search(text)
    start = found.start() if found is not None else 0
    if re.search(r"@|:\S", text[:start]) is not None:  # this looks like a password with '://' in it
        start = 0
    return clean(text[:start] + redact_url(text[start:]))


def is_secret_name(name: str) -> bool:
    """Whether a name such as `password` or `access_key` says that the value may be a secret."""
    return _SECRET_NAME.search(name) is not None


def redact_url(url: str) -> str:
    """A URL with everything hidden that may be a secret. What follows a malformed part of it is not shown."""
    beginning = _BEGINNING.match(url)
    if beginning is None:
        return _redacted_text(url)
    head = beginning.group()
    match = _LOCATION.fullmatch(url, len(head))
    assert match is not None  # noqa: S101  # every part of the pattern may be empty
    authority, path, query, fragment = match.groups()
    credentials, at, hosts = authority.rpartition("@")
    user, colon, _ = credentials.partition(":")
    if url.count("@") > len(at) or _USER.fullmatch(user) is None or holds_secret_option(user):
        return head + HIDDEN  # a raw '@', '/', '?' or '#' in a password: nothing says where that ends
    shown = f"{head}{user}{colon and f':{HIDDEN}'}{at}"
    good, is_whole = _good_hosts(hosts)
    shown += good
    if is_whole:
        wrong = wrong_in_path(path)
        shown += path if wrong is None else f"{path[:wrong]}{HIDDEN}"
        is_whole = wrong is None
    if is_whole and query is not None:
        good, is_whole = _good_fields(query)
        shown += f"?{good}"
    if is_whole and fragment is not None:
        shown += f"#{HIDDEN}"
    return shown


def holds_secret_option(user: str) -> bool:
    """Whether a user's name is a host with an option behind `,`, `;` or `&`, whose value holds a raw '@'."""
    names = re.findall(r"[&,;]([^=&,;]*)=", user)
    return any(_SECRET_NAME.search(unquote(name)) for name in names)


def wrong_in_path(path: str) -> int | None:
    """Where a path stops being one: an option behind `&` or a secret behind `,` or `;`, since a `?` is missing."""
    for found in re.finditer(r"&|\s|%(?![0-9A-Fa-f]{2})|[,;]([^/=&,;]*)=", path):
        if found.group(1) is None or _SECRET_NAME.search(unquote(found.group(1))):
            return found.start()
    return None


def redacted_option(name: str, value: str) -> str:
    """`name=value` of an option, with the value hidden where it may be a secret or contain one."""
    if _SECRET_NAME.search(name):
        return f"{name}={HIDDEN}"
    inner = value
    for depth in range(_NESTED):
        if "://" in inner or "@" in inner:
            hidden = redact(inner)
            if hidden != inner:
                return f"{name}={HIDDEN if depth else hidden}"
        inner = unquote(inner)
    return _hidden_field(f"{name}={value}")


def secrets_of_url(url: str, nested: int = _NESTED) -> Iterator[str]:
    """The passwords in a URL, in its options with a secret's name, and in the URLs that its options hold."""
    match = _LOCATION.fullmatch(url.partition("://")[2])
    assert match is not None  # noqa: S101  # every part of the pattern may be empty
    password = match.group(1).rpartition("@")[0].partition(":")[2]
    yield unquote(password)
    for field in (match.group(3) or "").split("&"):
        name, _, value = field.partition("=")
        yield from secrets_of_setting(unquote_plus(name), unquote_plus(value), nested)


def secrets_of_setting(name: str, value: object, nested: int = _NESTED) -> Iterator[str]:
    """The secrets in a setting or an option: its value where the name says so, and those of URLs in it.

    A name such as `password_file` says where a secret is, and `true` or a small number tells nothing.
    """
    if isinstance(value, Mapping):
        for inner, held in value.items():
            yield from secrets_of_setting(f"{name}.{inner}" if is_secret_name(name) else str(inner), held, nested)
    elif isinstance(value, list | tuple | set | frozenset):
        for held in value:
            yield from secrets_of_setting(name, held, nested)
    elif value is not None and not isinstance(value, bool | float):
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        if is_secret_name(name) and not _REFERENCE.search(name) and not _is_switch(text):
            yield text
        if nested and "://" in text:
            yield from secrets_of_url(text, nested - 1)


def _is_switch(text: str) -> bool:
    return text.casefold() in _SWITCHES or (text.isdigit() and len(text) < 6)


def _redacted_text(text: str) -> str:
    """Returns a text that does not begin as a URL. A URL without its scheme may stand in it."""
    # A password with a raw '/', '?' or '#' is malformed. Even then the last '@' ends the credentials.
    credentials, at, location = text.rpartition("@")
    first, sign, others = location.partition("&")
    if at:
        if _hidden_field(last := credentials.rpartition("&")[2]) != last:
            first = HIDDEN  # the raw '@' stands in a secret option's value
        user = re.split(r"[:/?#]", credentials, maxsplit=1)[0]
        credentials = f"{user}:{HIDDEN}" if user != credentials else user
    return credentials + at + "&".join(map(_hidden_field, f"{first}{sign}{others}".split("&")))


def _good_hosts(hosts: str) -> tuple[str, bool]:
    """Returns the hosts up to the first malformed one, and whether all are good."""
    shown: list[str] = []
    for item in hosts.split(",") if hosts else ():
        match = HOST_PATTERN.fullmatch(item)
        if match is None or int(match["port"] or 0) > 65_535:
            name, colon, _ = item.partition(":")  # in `redis://user:password`, what follows is the password
            is_name = bool(colon) and (not name or HOST_PATTERN.fullmatch(name) is not None)
            return ",".join((*shown, f"{name}:{HIDDEN}" if is_name else HIDDEN)), False
        shown.append(item)
    return ",".join(shown), True


def _good_fields(query: str) -> tuple[str, bool]:
    """Returns the options up to the first malformed one, with their secrets hidden, and whether all are good."""
    shown: list[str] = []
    for field in query.split("&"):
        if _FIELD.fullmatch(field) is None:
            return "&".join((*shown, HIDDEN)), False
        name, _, value = field.partition("=")
        option = unquote_plus(name), unquote_plus(value)
        hidden = redacted_option(*option)
        shown.append(field if hidden == "=".join(option) else f"{name}={hidden.partition('=')[2]}")
    return "&".join(shown), True


def _hidden_field(field: str) -> str:
    # Everything from a secret's name to the end of the field may belong to the secret.
    pieces = re.split(r"([?;#&,\s])", field)
    for index, piece in enumerate(pieces):
        name, sign, value = piece.partition("=")
        if sign and _SECRET_NAME.search(unquote(name)) and (value or pieces[index + 1 :]):
            return "".join(pieces[:index]) + f"{name}={HIDDEN}"
    return field
