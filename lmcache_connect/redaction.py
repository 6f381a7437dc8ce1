"""Hides secrets in texts, URLs and settings that are shown to people."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"
"""What is shown in the place of a secret."""

# A URL's beginning: at the start of a text, or after a space, a quote or a bracket in it.
_BEGINNING: Final = re.compile(r"(?<![^\s'\"(<\[])[a-z][a-z0-9+.-]*://", re.IGNORECASE)

HOST_PATTERN: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[0-9]{1,5}))?"
)
"""One `host[:port]` of a URL, with an IPv6 address in brackets."""

_SECRET_NAME: Final = re.compile(r"pass|pwd|secret|token|credential|signature|auth|key$", re.IGNORECASE)


def redact(text: str) -> str:
    """A URL, or a text with one in it, with everything hidden that may be a secret. The URL may be malformed."""
    found = _BEGINNING.search(text)
    start = found.start() if found is not None else 0
    if re.search(r"@|:\S", text[:start]) is not None:  # this looks like a password with '://' in it
        start = 0
    return text[:start] + redact_url(text[start:])


def is_secret_name(name: str) -> bool:
    """Whether a name such as `password` or `access_key` says that the value may be a secret."""
    return _SECRET_NAME.search(name) is not None


def redact_url(url: str) -> str:
    """A URL with everything hidden that may be a secret. It may be malformed: then rather too much is hidden."""
    beginning = _BEGINNING.match(url)
    head = beginning.group() if beginning is not None else ""
    # A password with a raw '/', '?' or '#' is malformed. Even then the last '@' ends the credentials.
    credentials, at, location = url[len(head) :].rpartition("@")
    first, sign, others = location.partition("&")
    if at:
        if _hidden_field(last := credentials.rpartition("&")[2]) != last:
            first = HIDDEN  # the raw '@' stands in a secret option's value
        user = re.split(r"[:/?#]", credentials, maxsplit=1)[0]
        credentials = f"{user}:{HIDDEN}" if user != credentials else user
    location = f"{first}{sign}{others}"
    if head:
        location = _hidden_hosts(location, whole=not at)
    return head + credentials + at + "&".join(map(_hidden_field, location.split("&")))


def _hidden_hosts(location: str, *, whole: bool) -> str:
    # `user:password` without `@host` looks like a host and its port. With `whole`, all that follows may belong to it.
    authority = re.split(r"[/?#]", location, maxsplit=1)[0]
    shown = []
    for item in authority.split(","):
        if ":" in item and HOST_PATTERN.fullmatch(item) is None:
            shown.append(f"{item.partition(':')[0]}:{HIDDEN}")
            if whole:
                return ",".join(shown)
        else:
            shown.append(item)
    return ",".join(shown) + location[len(authority) :]


def _hidden_field(field: str) -> str:
    # Everything from a secret's name to the end of the field may belong to the secret.
    pieces = re.split(r"([?;#&])", field)
    for index, piece in enumerate(pieces):
        name, sign, value = piece.partition("=")
        if sign and _SECRET_NAME.search(unquote(name)) and (value or pieces[index + 1 :]):
            return "".join(pieces[:index]) + f"{name}={HIDDEN}"
    return field


def redacted_option(name: str, value: str) -> str:
    """`name=value` of an option, with the value hidden where it may be a secret or contain one."""
    if _SECRET_NAME.search(name):
        return f"{name}={HIDDEN}"
    return _hidden_field(f"{name}={value}")
