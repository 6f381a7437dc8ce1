"""Transactions: commands between MULTI and EXEC, which the server runs together or not at all."""

from __future__ import annotations

from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.errors import StoreCommandError

from .connection import Connection
from .replies import encode_command, is_refusal

MULTI: Final = encode_command(b"MULTI")
EXEC: Final = encode_command(b"EXEC")


class TransactionRefusedError(StoreCommandError):
    """The server lacks one of a transaction's commands, or does not let this user run it."""

    permanent = True

    def __init__(self, refusal: StoreError) -> None:
        super().__init__(refusal.store, f"a transaction: {refusal.message}")
        self.refusal: Final = refusal
        """The typed error of the reply."""


def replies_of(commands: int) -> int:
    """Returns how many replies MULTI, `commands` commands and EXEC have."""
    return commands + 2


async def read_transaction(connection: Connection, commands: int) -> list[bytes]:
    """Takes the replies to MULTI, `commands` commands and EXEC. Returns the commands' replies, of one line each.

    Returns none at all if a key that the connection watches was changed: the server then runs none of the commands.
    A line has its type byte: `+` for a status, `:` for an integer. All replies are taken. The connection stays usable.

    Raises:
        TransactionRefusedError: the server lacks a command, or does not let this user run it. Nothing was run. But
            where MULTI itself is lacking, each command was run on its own.
        StoreError: the typed error of the first error reply.
    """
    failure: StoreError | None = None
    for expected in (b"+OK", *[b"+QUEUED"] * commands):
        line = await _take_line(connection)
        if line[:1] == b"-":
            failure = failure or _queueing_error(connection, line)
        elif line != expected and failure is None:  # where MULTI is refused, each command answers for itself
            raise connection.broken(f"a transaction is answered by something else than {expected[1:].decode()}")
    line = await connection.read_line()
    if line[:1] == b"-":
        aborted = connection.unexpected(line, "the transaction's replies")
        raise failure or aborted
    if line == b"*-1" and failure is None:
        connection.pending -= 1
        return []
    if line[:1] != b"*" or connection.number(line) != commands:
        raise connection.broken(f"a transaction does not answer with {commands} replies")
    connection.pending += commands - 1
    done = [await _take_line(connection) for _ in range(commands)]
    for line in done:
        if line[:1] == b"-":
            failure = failure or connection.error_of(line)
    if failure is not None:
        raise failure
    return done


async def _take_line(connection: Connection) -> bytes:
    line = await connection.read_line()
    if line[:1] not in b"+-:":
        raise connection.broken("a transaction answers with more than a line; expected a status or an integer")
    connection.pending -= 1
    return line


def _queueing_error(connection: Connection, line: bytes) -> StoreError:
    error = connection.error_of(line)
    return TransactionRefusedError(error) if is_refusal(line[1:].decode("utf-8", "replace")) else error
