"""One connection to a Redis server: commands go out, and every reply is read within bounds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

from lmcache_connect import StoreError, StoreUnavailableError
from lmcache_connect.errors import CertificateError, StoreProtocolError, StoreStalledError, TLSMismatchError
from lmcache_connect.known_secrets import clean_foreign
from lmcache_connect.transport import (
    CertificateRefusedError,
    NoCommonTLSError,
    Stream,
    StreamClosedError,
    StreamStalledError,
)

from .credential import Credential, LatestCredential
from .redirects import redirect_of
from .replies import LapsedLoginError, ends_connection, is_login_missing, is_refusal, reply_error
from .tenure import Tenure
from .traits import FULL_SERVER, Role, ServerTraits

MAX_LINE_BYTES: Final = 4096

_SHOWN_BYTES: Final = 40
"""How much of a reply that is not understood an error shows."""

_LAST_REFUSAL: Final = re.compile(rb"(?:\+[A-Z]+\r\n)*-([^\r\n]*)")
"""An error reply, behind the status replies of a transaction."""

ROLE_SECONDS: Final = 1.0
"""For how long a server that called itself the primary is believed, where it is asked nothing that it would refuse."""

NO_CREDENTIAL: Final = Credential()
"""What a connection is logged in with that has told the server nothing."""

_NUMBER: Final = re.compile(rb"-?[0-9]{1,19}")


class Connection:
    """A connection that is ready for commands.

    Attributes:
        stream: what the commands and replies go over. A thread's while a thread has the connection.
        store: the store's name, for errors.
        traits: what the server can do.
        pending: replies that were asked for and not taken. A connection that is released with some is closed.
        veil: hides secrets in what the server says, before any of that is shown.
        is_suspect: the connection must not be used again: a reply was not to its command, or another server may have
            become the right one.
        credential: what it is logged in with.
        latest: where the credential is that it is to be logged in with by now; None: it stays logged in as it is.
        is_of_cluster: the server is a node of a cluster that is known to be one. What it says of other nodes concerns a
            single key then, and not the connection.
    """

    __slots__ = (
        "_role_known",
        "_tenure",
        "copies_asked",
        "credential",
        "is_of_cluster",
        "is_suspect",
        "latest",
        "pending",
        "store",
        "stream",
        "traits",
        "veil",
    )

    def __init__(
        self,
        stream: Stream,
        store: str,
        traits: ServerTraits = FULL_SERVER,
        tenure: Tenure | None = None,
        veil: Callable[[str], str] = clean_foreign,
    ) -> None:
        """`tenure` is the server's; None: one of its own."""
        self.stream = stream
        self.store = store
        self.traits = traits
        self._tenure = tenure if tenure is not None else Tenure()
        self.veil = veil
        self.pending = 0
        self.is_suspect = False
        self.is_of_cluster = False
        self._role_known = time.monotonic()
        self.credential = NO_CREDENTIAL
        self.latest: LatestCredential | None = None
        self.copies_asked = 0
        """Of the metadata, by the last request of `layout=lmcache`. The next one asks for another number of them."""

    @property
    def is_trusted(self) -> bool:
        """Whether further calls may use it."""
        return not self.is_suspect and not self._tenure.is_over

    @property
    def is_login_due(self) -> bool:
        """Whether it is to be logged in again before it is used for the next call."""
        return self.latest is not None and self.latest.credential is not self.credential

    @property
    def takes_requests(self) -> bool:
        """Whether further requests may be sent over it before it is released."""
        return self.is_trusted and not self.is_login_due

    @property
    def is_reusable(self) -> bool:
        """Whether the stream stands where the next caller may send a command."""
        return self.pending == 0 and self.is_trusted and self.stream.is_open and not self.stream.buffered

    def is_role_due(self) -> bool:
        """Returns whether the server is to be asked whether it still is the primary. Says so once in `ROLE_SECONDS`.

        A primary that becomes a replica keeps its connections. It refuses writes, and answers look-ups with what it
        knows, which may be old.
        """
        if self.traits.role is not Role.PRIMARY or (now := time.monotonic()) < self._role_known + ROLE_SECONDS:
            return False
        self._role_known = now
        return True

    def end_tenure(self) -> None:
        """Another server may be the right one by now: no connection to this one is used for another call."""
        self.is_suspect = True
        self._tenure.end()

    async def send(self, command: bytes, replies: int = 1) -> None:
        """Sends one or several encoded commands, which have `replies` replies together."""
        self.pending += replies
        await self.stream.send(command)

    async def read_line(self) -> bytes:
        """Takes the first line of the next reply. Returns it with its type byte, also if it is an error reply."""
        line = await self.stream.read_until_crlf(MAX_LINE_BYTES)
        if not line or line[:1] not in b"+-:$*":
            self.stream.close()
            raise self.broken(f"a reply cannot start with {self.shown(line)}")
        return line

    async def read_integer(self) -> int:
        """Takes an integer reply and returns it. Raises the typed error of an error reply."""
        line = await self.read_line()
        if line[:1] != b":":
            raise self.unexpected(line, "an integer")
        self.pending -= 1
        return self.number(line)

    async def read_flags(self, expected: int) -> list[bool]:
        """Takes every outstanding reply, each of them an integer. Returns for each whether it is `expected`, one digit.

        Raises:
            StoreError: the typed error of the first error reply, when all are taken. So the stream stays usable.
        """
        flags: list[bool] = []
        refused: StoreError | None = None
        while self.pending:
            try:
                flags += await self.read_arrived_flags(expected)
            except StoreError as error:
                if not self.stream.is_open:
                    raise
                refused = refused or error
        if refused is not None:
            raise refused
        return flags

    async def discard_integers(self) -> None:
        """Takes every outstanding reply, each of them an integer, and drops it. Raises what `read_flags` raises."""
        await self.read_flags(1)

    async def read_arrived_flags(self, expected: int) -> list[bool]:
        """Takes integer replies, as many as have arrived, at least one. Raises the typed error of an error reply."""
        view = await self.stream.peek_available(4)
        count = min(len(view) // 4, self.pending)
        data = bytes(view[: 4 * count])
        if data[0::4] != b":" * count or data[2::4] != b"\r" * count or data[3::4] != b"\n" * count:
            short = (data[4 * at] == 0x3A and data[4 * at + 2 : 4 * at + 4] == b"\r\n" for at in range(count))
            count = next((at for at, is_short in enumerate(short) if not is_short), count)
            if count == 0:
                return [await self.read_integer() == expected]
            data = data[: 4 * count]
        self.stream.take(4 * count)
        self.pending -= count
        digit = 0x30 + expected
        return [flag == digit for flag in data[1::4]]

    async def read_ok(self, expected: bytes = b"OK") -> None:
        """Takes a status reply, which must be `expected`. Inside a transaction, QUEUED means that nothing is done yet.

        Raises:
            StoreError: the typed error of an error reply. StoreProtocolError for another status: the stream is closed.
        """
        line = await self.read_line()
        if line[:1] != b"+":
            raise self.unexpected(line, "a status")
        if line[1:] != expected:
            raise self.broken(f"{self.shown(line)}; expected '+{expected.decode()}'")
        self.pending -= 1

    async def read_oks(self, count: int) -> bool:
        """Takes `count` status replies, if all of them are OK. Returns False otherwise, and takes none."""
        expected = b"+OK\r\n" * count
        arrived = 0
        while arrived < len(expected):
            view = await self.stream.peek_available(arrived + 1)
            arrived = min(len(view), len(expected))
            if view[:arrived] != expected[:arrived]:
                return False
        self.stream.take(arrived)
        self.pending -= count
        return True

    async def read_taken(self) -> bool:
        """Takes a reply of one line. Returns False where the server lacks the command, or the user may not use it.

        Raises:
            RedirectedError: the server is a node of a cluster, and the key is not its own, or nobody's for now.
            StoreError: the typed error of any other error reply.
        """
        line = await self.read_line()
        if line[:1] in b"$*":
            raise self.unexpected(line, "a reply of one line")
        self.pending -= 1
        if line[:1] != b"-":
            return True
        said = line[1:].decode("utf-8", "replace")
        if is_refusal(said):
            return False
        error = reply_error(self.store, said, self.veil)
        raise (redirect_of(error, said) if self.is_of_cluster else None) or error

    async def read_array(self, limit: int, item_limit: int, *, drop_longer: bool = False) -> list[bytes]:
        """Takes and returns a flat array of strings, of at most `item_limit` bytes each and `limit` bytes in all.

        With `drop_longer`, a longer string is received and forgotten, and b"" stands in its place.
        """
        count = self.number(await self.expect(b"*", "an array"))
        if not 0 <= count <= limit // 16:
            raise self.broken(f"an array of {count} items; expected at most {limit // 16}")
        items: list[bytes] = []
        total = 0
        for _ in range(count):
            size = await self._read_size()
            total += size + 16
            if not 0 <= size <= (limit if drop_longer else item_limit):
                raise self.broken(f"a string of {size} bytes; expected at most {item_limit}")
            if total > limit:
                raise self.broken(f"an array of {count} items of more than {limit} bytes in all")
            items.append(await self._read_text(size) if size <= item_limit else b"")
            if size > item_limit:
                await self.stream.discard(size + 2)
        return items

    async def read_string(self, limit: int) -> bytes:
        """Takes and returns a string inside an array, of at most `limit` bytes, which is at most `SCRATCH_BYTES`."""
        size = await self._read_size()
        if not 0 <= size <= limit:
            raise self.broken(f"a string of {size} bytes; expected at most {limit}")
        return await self._read_text(size)

    async def read_value(self, limit: int) -> bytes:
        """Takes and returns a string reply of at most `limit` bytes, b"" for a missing one.

        Raises:
            StoreError: the typed error of an error reply.
        """
        size = self.number(await self.expect(b"$", "a string"))
        if not -1 <= size <= limit:
            raise self.broken(f"a string of {size} bytes; expected at most {limit}")
        text = await self._read_text(size) if size >= 0 else b""
        self.pending -= 1
        return text

    async def read_answer(self, limit: int) -> int | bytes:
        """Takes and returns an integer, or a string of at most `limit` bytes, b"" for a missing one.

        Raises:
            StoreError: the typed error of an error reply.
        """
        line = await self.read_line()
        if line[:1] == b":":
            self.pending -= 1
            return self.number(line)
        if line[:1] != b"$":
            raise self.unexpected(line, "an integer or a string")
        size = self.number(line)
        if not -1 <= size <= limit:
            raise self.broken(f"a string of {size} bytes; expected at most {limit}")
        text = await self._read_text(size) if size >= 0 else b""
        self.pending -= 1
        return text

    async def _read_size(self) -> int:
        line = await self.read_line()
        if line[:1] != b"$":  # not even an error reply: the rest of the array would be taken for the next reply
            raise self.broken(f"{self.shown(line)} is not a string")
        return self.number(line)

    async def _read_text(self, size: int) -> bytes:
        text = bytes((await self.stream.peek(size + 2))[:size])
        self.stream.take(size + 2)
        return text

    async def expect(self, kind: bytes, name: str) -> bytes:
        """Takes the next line, which must be of type `kind`, and returns it. `name` says that type in errors."""
        line = await self.read_line()
        if line[:1] != kind:
            raise self.unexpected(line, name)
        return line

    def number(self, line: bytes) -> int:
        """Returns the number behind a line's type byte."""
        if _NUMBER.fullmatch(digits := line[1:]) is None:
            raise self.broken(f"{self.shown(line)} holds no number")
        return int(digits)

    def unexpected(self, line: bytes, expected: str) -> StoreError:
        """Returns the error for a reply of another type, and takes it. After an error reply the stream stays usable."""
        if line[:1] == b"-":
            self.pending -= 1
            return self.error_of(line)
        return self.broken(f"{self.shown(line)} is not {expected}")

    def error_of(self, line: bytes) -> StoreError:
        """Returns the typed error of an error reply.

        Where the reply says that another server may be the right one by now, as after a failover, no connection to this
        one is used for another call. From a node of a cluster it may be a `RedirectedError`.
        """
        said = line[1:].decode("utf-8", "replace")
        error = reply_error(self.store, said, self.veil)
        if self.is_of_cluster and (redirected := redirect_of(error, said)) is not None:
            return redirected
        if ends_connection(said):
            self.end_tenure()
        if is_login_missing(said) and self.credential.password is not None:
            return LapsedLoginError(self.store, error.message)
        return error

    def shown(self, line: bytes) -> str:
        """Returns what an error may show of a reply."""
        return f"'{self.veil(line.decode('utf-8', 'backslashreplace'))[:_SHOWN_BYTES]}'"

    def broken(self, reason: str) -> StoreProtocolError:
        """Closes the stream, because what follows on it cannot be understood. Returns the error to raise."""
        self.stream.close()
        return StoreProtocolError(self.store, f"the server's reply breaks the protocol: {reason}")

    def close(self) -> None:
        """Closes the stream at once."""
        self.stream.close()


def lost_connection(store: str, error: StreamClosedError, veil: Callable[[str], str] = clean_foreign) -> StoreError:
    """Returns the error for a connection that was lost. It quotes an error reply that came before, behind the veil."""
    if isinstance(error, CertificateRefusedError):
        return CertificateError(store, str(error))
    if isinstance(error, NoCommonTLSError):
        return TLSMismatchError(store, str(error))
    # Only an error reply is for people; anything else may be the rest of a record.
    found = _LAST_REFUSAL.match(error.last_words)
    said = veil(found.group(1).decode("utf-8", "replace"))[:200] if found is not None else ""
    hint = f" (the server said before: {ascii(said)[1:-1]})" if said else ""
    kind = StoreStalledError if isinstance(error, StreamStalledError) else StoreUnavailableError
    return kind(store, f"{error}{hint}")
