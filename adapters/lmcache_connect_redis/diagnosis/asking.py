"""`ask`: one command, and its reply or why it was refused. For trials, where a refusal is an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from lmcache_connect import StoreError

from ..protocol.connection import Connection
from ..protocol.nested import Tree, read_nested_from
from ..protocol.replies import cause_of, encode_command, is_refusal

_REPLY_BYTES: Final = 1 << 20
_ITEM_BYTES: Final = 48 << 10
_DEPTH: Final = 4


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command that the server has not carried out. `said`: its reply as it came, which may repeat a secret."""

    error: StoreError
    said: str = field(repr=False)

    @property
    def is_lacking(self) -> bool:
        """Whether the server lacks the command, or this user may not use it. Otherwise its state forbids it now."""
        return is_refusal(self.said) or self._is_missing_right

    @property
    def _is_missing_right(self) -> bool:
        return cause_of(self.said).startswith("NOPERM")

    @property
    def is_missing_key(self) -> bool:
        """Whether the command is one that needs a key which is there, and it is not."""
        return cause_of(self.said).startswith("ERR no such key")

    @property
    def reason(self) -> str:
        """Why, in a few words where it is a matter of rights."""
        if self._is_missing_right:
            is_key = "to access" in self.said
            return "the user may not touch keys of this prefix" if is_key else "the user may not use it"
        return "the server does not know it" if "unknown" in self.said.lower() else self.error.message


async def ask(connection: Connection, *words: bytes) -> Tree | Refusal:
    """Sends a command. Returns its reply, or why it was refused.

    Raises:
        StoreError: the connection was lost, or the reply breaks the protocol.
        StreamClosedError: the connection was lost.
    """
    await connection.send(encode_command(*words))
    line = await connection.read_line()
    if line[:1] != b"-":
        return await read_nested_from(line, connection, _REPLY_BYTES, _ITEM_BYTES, _DEPTH)
    error = connection.unexpected(line, "a reply")  # which takes it
    return Refusal(error, line[1:].decode("utf-8", "replace"))
