"""What a text, a URL or a setting may show of its secrets."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

# A URL's beginning: at the start of a text, or behind a space, a quote or a bracket in it.
_BEGINNING: Final = re.compile(r"(?<![^\s'\"(<\[])[a-z][a-z0-9+.-]*://", re.IGNORECASE)


HOST_PATTERN: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[0-9]{1,5}))?"
)


_SECRET_NAME: Final = re.compile(r"pass|pwd|secret|token|credential|signature|auth|key$", re.IGNORECASE)


HIDDEN: Final = "***"


def redact(text: str) -> str:
    """A URL, however malformed, or a text with one in it, with everything hidden that may be a secret."""
    found = _BEGINNING.search(text)
    start = found.start() if found is not None else 0
    if re.search(r"@|:\S", text[:start]) is not None:  # rather a password with '://' in it
        start = 0
    return text[:start] + redact_url(text[start:])


def is_secret_name(name: str) -> bool:
    """Whether what is called so may be a secret: `password`, `access_key`, and so on."""
    return _SECRET_NAME.search(name) is not None


def redact_url(url: str) -> str:
    beginning = _BEGINNING.match(url)
    head = beginning.group() if beginning is not None else ""
    # A raw '/', '?' or '#' in a password is malformed, and then the last '@' still ends the credentials.
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
    # `user:password` without `@host` reads as a host and its port. With `whole`, what follows may belong to it.
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
    # To the field's end, all that follows a secret's name may belong to the secret.
    pieces = re.split(r"([?;#&])", field)
    for index, piece in enumerate(pieces):
        name, sign, value = piece.partition("=")
        if sign and _SECRET_NAME.search(unquote(name)) and (value or pieces[index + 1 :]):
            return "".join(pieces[:index]) + f"{name}={HIDDEN}"
    return field


def redacted_option(name: str, value: str) -> str:
    if _SECRET_NAME.search(name):
        return f"{name}={HIDDEN}"
    return _hidden_field(f"{name}={value}")
