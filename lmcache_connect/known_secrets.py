"""The secrets that this process was given, and what takes them out of every text that leaves it.

Whatever reads a secret tells `know`: a URL's password, a token's file, S3's credentials. Errors, log lines, answers and
the command's output go through `clean`, words of servers and other people's code through `clean_foreign`. Both find a
secret by its value, as it is or in a usual encoding. Neither is called where chunks move.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import count
from typing import Final, TypeVar
from urllib.parse import quote, quote_plus
from weakref import finalize

HIDDEN: Final = "***"
"""What is shown in the place of a secret."""

LEFT_OUT: Final = "(left out: it repeats a secret, or a part of one)"
"""What is shown in the place of a foreign text that holds a secret which cannot be cut out of it."""

FOREIGN_LIMIT: Final = 1000
"""The most characters of a foreign text that are shown."""

_LEAST: Final = 8
"""A secret of fewer characters is part of many harmless words."""

_LEAST_OF_ONE_KIND: Final = 16
"""The same for one of letters alone, or of digits alone, and punctuation."""

_PIECE: Final = 8
"""So many characters of a secret in a row tell too much of it."""

_MOST: Final = 1024
"""The most secrets that are looked for. Where more are in use, no foreign text is shown."""

_LONGEST: Final = 8192
"""What is longer is known by its first characters."""

_SCANNED: Final = 4 * _LONGEST
"""Characters of a foreign text behind those that are shown, which are looked at as well: a secret may begin there."""

_BASE64: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")


class Holder:
    """An owner of secrets, where nothing else lives exactly as long as they are in use."""

    __slots__ = ("__weakref__",)


_HolderT = TypeVar("_HolderT")

# No lock: a finalizer may run in any thread at any allocation, and a fork may inherit a lock that nobody frees. Each
# step is one operation on a dict, or the assignment of an immutable value.
_numbers: Final = count()
_held: Final[dict[int, tuple[_Secret, ...]]] = {}
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_PUNCTUATION: Final = re.compile(r"[\W_]")


def know(holder: _HolderT, *values: str | None) -> _HolderT:
    """Makes secrets known for as long as `holder` lives, and returns it. Empty values and None are passed over.

    `holder` is any object that can be referred to weakly, such as the `SecretStr` around the value.
    """
    kept = tuple(dict.fromkeys(value[:_LONGEST] for value in values if value))
    if kept:
        number = next(_numbers)
        _held[number] = tuple(map(_Secret, kept))
        finalize(holder, _held.pop, number, None).atexit = False
    return holder


def know_login(holder: _HolderT, user: str | None, password: str) -> _HolderT:
    """Makes a password known, and the pair `user:password` in base64, as HTTP sends it. Returns `holder`."""
    pairs = (f"{name}:{password}" for name in dict.fromkeys((user or "", "default")))
    return know(holder, password, *(b64encode(_bytes(pair)).decode().rstrip("=") for pair in pairs if password))


def clean(text: str) -> str:
    """The text with every known secret replaced by `***`, in time that grows with its length.

    A secret that is short or looks like a word stays: our own words hold it by chance. `clean_foreign` is for texts
    that may repeat it.
    """
    return _hidden(text, _searched()[-_MOST:]) if _held else text


def clean_foreign(text: str, *others: str | None, limit: int = FOREIGN_LIMIT) -> str:
    """What may be shown of a text that a server or other people's code has made: one line, cut at `limit` characters.

    A known secret becomes `***`. Where one cannot be cut out, since it is short, looks like a word, or stands there in
    part, a note stands in place of the whole text. `others` are treated as short secrets. Line breaks and other control
    characters are escaped.
    """
    return in_one_line(_without_secrets(text, others, limit))


def in_one_line(text: str) -> str:
    """The text with line breaks and other control characters escaped, as in `\\n`."""
    return text if text.isprintable() else "".join(map(_printable, text))


def tells_secret(text: str) -> bool:
    """Whether a foreign text holds a known secret, or a piece of one."""
    return _without_secrets(text, (), len(text)) != text


def _without_secrets(text: str, others: Iterable[str | None], limit: int) -> str:
    known = _searched()
    if len(known) > _MOST:
        return LEFT_OUT
    hidden = _hidden(text[: limit + _SCANNED], known)
    folded = hidden.casefold()
    if any(other.casefold() in folded for other in others if other):
        return LEFT_OUT
    pieces = {folded[at : at + _PIECE] for at in range(len(folded) - _PIECE + 1)} if known else set()
    if any(secret.is_told_by(folded, pieces) for secret in known):
        return LEFT_OUT
    return hidden if len(hidden) <= limit else f"{hidden[:limit]}..."


def known_count() -> int:
    """How many secrets are looked for now."""
    return len(_searched())


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _is_strong(value: str) -> bool:
    """Whether a text holds this value only because somebody repeats the secret."""
    bare = _PUNCTUATION.sub("", value)  # `hit_prefix` and `10.0.0.1` stand in many a text
    is_of_one_kind = bare.isalpha() or bare.isdigit()
    return len(value) >= (_LEAST_OF_ONE_KIND if is_of_one_kind else _LEAST) and len(set(value)) > 3


class _Secret:
    """One secret, and the forms in which it is looked for."""

    def __init__(self, value: str) -> None:
        self.value: Final = value
        self.is_strong: Final = _is_strong(value)

    @cached_property
    def written(self) -> tuple[str, ...]:
        return tuple({form for form in _written(self.value) if not self.is_strong or len(form) >= _LEAST})

    @cached_property
    def folded(self) -> tuple[str, ...]:
        encoded = self.encoded if len(self.value) >= _LEAST else ()
        return tuple({form.casefold() for form in (*self.written, *encoded)})

    @cached_property
    def encoded(self) -> tuple[str, ...]:
        return tuple(set(_in_base64(self.value)))

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yields where it stands in a text. A weak one is not looked for."""
        if self.is_strong:
            for form in self.written:
                yield from ((at, at + len(form)) for at in _places(form, text))
            for form in self.encoded:
                yield from (_run(text, at, at + len(form)) for at in _places(form, text))

    def is_told_by(self, folded: str, pieces: set[str]) -> bool:
        """Returns whether a text in small letters holds a piece of it, or all of it if it is weak."""
        if not self.is_strong and any(form in folded for form in self.folded):
            return True
        value = self.value.casefold()
        return any(value[at : at + _PIECE] in pieces for at in range(len(value) - _PIECE + 1))


def _searched() -> list[_Secret]:
    """Returns the secrets that are held now, each once."""
    return list({secret.value: secret for kept in _held.copy().values() for secret in kept}.values())


def _hidden(text: str, secrets: Iterable[_Secret]) -> str:
    """Returns the text with the secrets in it replaced. Where they overlap, all of them are."""
    text_of_urls = _ESCAPE.sub(lambda found: found.group().upper(), text)
    texts = (text,) if text == text_of_urls else (text, text_of_urls)
    spans = sorted(span for secret in secrets for form in texts for span in secret.spans(form))
    if not spans:
        return text
    shown: list[str] = []
    end = 0
    for start, stop in spans:
        if start >= end:
            shown += (text[end:start], HIDDEN)
        end = max(end, stop)
    return "".join((*shown, text[end:]))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _written(value: str) -> Iterator[str]:
    """The secret as it may stand in a text: as it is, percent-encoded, escaped by repr, JSON or HTML, and both."""
    data = _bytes(value)
    once = {value, " ".join(value.split()), html.escape(value), html.escape(value, quote=False), data.hex()}
    once |= {quote(data, safe=""), quote(data), quote_plus(data), quote(data, safe="!$'()*+,;:=@/")}
    yield from once
    escaped = {form for text in (value, quote(data, safe="")) for form in _escaped(text)}
    yield from escaped
    for form in escaped:
        yield from _escaped(form)


def _escaped(text: str) -> Iterable[str]:
    quoted = (repr(text), ascii(text), json.dumps(text), json.dumps(text, ensure_ascii=False), repr(_bytes(text))[1:])
    inside = [form[1:-1] for form in quoted]
    # repr escapes a quote only where both kinds stand in the text, which may be longer than the secret.
    return (*inside, *(form.replace("'", "\\'") for form in inside), text.replace('"', '\\"'))


def _in_base64(value: str) -> Iterator[str]:
    """What base64 of a text has in it, if the secret begins at any byte of that text."""
    data = _bytes(value)
    for offset, skipped in ((0, 0), (1, 2), (2, 3)):
        rest = (offset + len(data)) % 3
        text = b64encode(bytes(offset) + data).decode().rstrip("=")
        core = text[skipped : len(text) - bool(rest)]
        yield core
        yield core.replace("+", "-").replace("/", "_")


def _places(form: str, text: str) -> Iterator[int]:
    at = text.find(form)
    while at >= 0:
        yield at
        at = text.find(form, at + 1)


def _run(text: str, start: int, stop: int) -> tuple[int, int]:
    """The whole word in base64 around a place: its neighbours hold bits of the secret, too."""
    while start > 0 and text[start - 1] in _BASE64:
        start -= 1
    while stop < len(text) and text[stop] in _BASE64:
        stop += 1
    return start, stop
