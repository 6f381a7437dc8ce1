"""`ServerFacts`: what a server says of itself by INFO and CONFIG GET, as far as the user may ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lmcache_connect.known_secrets import clean_foreign

from ..protocol.connection import Connection
from .asking import ask

INFO_SECTIONS: Final = ("server", "memory", "clients", "persistence", "replication", "stats", "cluster")

SETTINGS: Final = (
    "maxmemory",
    "maxmemory-policy",
    "proto-max-bulk-len",
    "client-output-buffer-limit",
    "save",
    "appendonly",
    "timeout",
    "tcp-keepalive",
    "maxclients",
    "io-threads",
    "cluster-require-full-coverage",
)
"""What CONFIG GET is asked for, one by one: servers before Redis 7 take one name at a time."""

_MOST_FIELDS: Final = 2000

_SHOWN: Final = 100
"""Characters that are shown of one text."""


@dataclass(frozen=True)
class ServerFacts:
    """`info`: the fields of INFO. `config`: the settings that CONFIG GET told.

    `info_refusal` and `config_refusal`: why the server did not tell them; "" where it did.
    """

    info: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    info_refusal: str = ""
    config_refusal: str = ""

    def number(self, name: str) -> int | None:
        """Returns a number, of CONFIG GET or INFO. None where neither has it."""
        text = self.config.get(name, self.info.get(name, ""))
        digits = text.removeprefix("-")
        return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None

    @property
    def product(self) -> str:
        """The server's kind and version, as it tells them, for output."""
        info = self.info
        for kind in ("valkey", "dragonfly", "keydb", "redis"):
            if version := info.get(f"{kind}_version"):
                return f"{kind.capitalize()} {shown(version.removeprefix('df-'))}"
        return "a server that does not tell its version"


async def read_facts(connection: Connection) -> ServerFacts:
    """Asks a server for what it tells of itself. The caller sets the deadline.

    Raises:
        StoreError, StreamClosedError: the connection was lost.
    """
    info: dict[str, str] = {}
    info_refusal = config_refusal = ""
    for section in INFO_SECTIONS:
        told = await ask(connection, b"INFO", section.encode())
        if isinstance(told, bytes):
            info |= fields_of(told.decode("utf-8", "replace"))
        elif not isinstance(told, int | list | None):
            info_refusal = told.reason
            break
    config: dict[str, str] = {}
    for name in SETTINGS:
        told = await ask(connection, b"CONFIG", b"GET", name.encode())
        if isinstance(told, list):
            words = [item.decode("utf-8", "replace") if isinstance(item, bytes) else "" for item in told]
            config |= dict(zip(words[::2], words[1::2], strict=False))
        elif not isinstance(told, int | bytes | None):
            config_refusal = told.reason
            break
    return ServerFacts(info, config, info_refusal, config_refusal)


async def read_room(connection: Connection) -> int | None:
    """Returns how many bytes fit below the server's `maxmemory`. None: it has no limit, or does not tell.

    Raises:
        StoreError: the connection was lost.
        StreamClosedError: as before.
    """
    told = await ask(connection, b"INFO", b"memory")
    facts = ServerFacts(fields_of(told.decode("utf-8", "replace")) if isinstance(told, bytes) else {})
    limit, used = facts.number("maxmemory"), facts.number("used_memory")
    return max(0, limit - used) if limit and used is not None else None


def shown(text: str) -> str:
    """Returns a text of a server as it may be shown: the server may repeat the password in it."""
    return clean_foreign(text, limit=_SHOWN)


def fields_of(text: str) -> dict[str, str]:
    """Returns the fields of a reply to INFO."""
    lines = (line.partition(":") for line in text.splitlines()[:_MOST_FIELDS] if not line.startswith("#"))
    return {name: value.strip() for name, sign, value in lines if sign}
