"""`Sentinels`: the processes that watch over a primary and its replicas, and say which server is which.

Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from lmcache_connect import AuthenticationError, RemoteURL, StoreError, StoreUnavailableError
from lmcache_connect.errors import InvalidOptionError, StoreCommandError, StoreProtocolError, TLSMismatchError
from lmcache_connect.transport import StreamClosedError, TLSSettings, first_of, open_tcp_stream

from ..credentials.credentials import Credentials
from ..credentials.sources import credentials_of
from ..protocol.connection import Connection, lost_connection
from ..protocol.credential import Credential
from ..protocol.nested import Tree, read_nested
from ..protocol.replies import encode_command
from ..protocol.setup import Login, open_connection
from ..protocol.tenure import Tenure
from ..sentinel.options import SENTINEL_PORT, SentinelOptions, service_of
from .data_nodes import shown
from .placement import Address
from .tls_guess import TLSGuess

T = TypeVar("T")

_NAME_BYTES: Final = 255
_REPLY_BYTES: Final = 256 << 10
_DEPTH: Final = 2


class NoSuchServiceError(StoreCommandError):
    """A sentinel does not watch over a primary of this name."""

    permanent = True


class NoSentinelError(StoreCommandError):
    """What answers at a sentinel's address is something else, such as a data node."""

    permanent = True


@dataclass(frozen=True, slots=True)
class ServiceView:
    """What one sentinel says of its service. None: it does not tell, or not this user."""

    primary: Address
    quorum: int | None = None
    sentinels: int | None = None
    """All sentinels that it knows, and itself."""
    replicas: int | None = None
    is_down: bool = False


class Sentinels:
    """Asks the sentinels of a URL. What one of them says is not believed: it is only where to look.

    A connection to a sentinel is opened for one question. So none is kept that could be old, and sentinels that are
    down or slow cost `HEAD_START` seconds.
    """

    def __init__(self, url: RemoteURL, options: SentinelOptions, stall_timeout: float | None, *, is_tls: bool) -> None:
        """Opens nothing yet.

        Raises:
            InvalidURLError: the URL names no sentinel, one of them twice, or no service.
            InvalidOptionError: the password cannot be read from where the options point.
        """
        self._store: Final = url.label()
        self.service: Final = service_of(url)
        self._addresses = list(url.several_hosts(SENTINEL_PORT))
        self._stall_timeout: Final = stall_timeout
        self._tls: Final = (
            TLSSettings(options.ca_file, options.cert_file, options.key_file, options.verify, options.server_name)
            if (is_tls if options.sentinel_tls is None else options.sentinel_tls)
            else None
        )
        self._guesses: Final = {
            (host, port): TLSGuess(self._store, host, port, is_tls=self._tls is not None)
            for host, port in self._addresses
        }
        self._credentials: Final = _credentials(url, options)
        self._primary_question: Final = self._question(b"GET-MASTER-ADDR-BY-NAME")
        self._replicas_question: Final = self._question(b"SLAVES")  # the only name that old sentinels know

    async def find_primary(self, look: Callable[[Address], Awaitable[T]], discard: Callable[[T], object]) -> T:
        """Returns what `look` makes of the primary, for the first address that it accepts.

        The sentinels are asked one after the other, or side by side where one of them is late, and each address is
        looked at once. The caller sets the deadline.

        Raises:
            StoreError: the data node's own, where it is permanent. Otherwise why no sentinel led to a primary.
        """
        looked: set[Address] = set()
        refusals: list[StoreError] = []

        async def try_one(sentinel: Address) -> T:
            address = await self._ask_primary(sentinel)
            if address in looked:
                raise StoreUnavailableError(self._store, f"it names {shown(address)} as well")
            looked.add(address)
            try:
                found = await look(address)
            except StoreError as error:
                refusals.append(error.with_traceback(None))
                raise
            self._ask_first(sentinel)
            return found

        sentinels = tuple(self._addresses)
        reasons: dict[Address, Exception] = {}
        attempts = [partial(_noting, try_one, sentinel, reasons) for sentinel in sentinels]
        errors: list[Exception] = []
        found = await first_of(attempts, discard, errors)
        if found is not None:
            return found
        raise self._failure(sentinels, refusals, reasons)

    async def replicas(self) -> list[Address]:
        """Returns the replicas that the first sentinel which answers calls well. Raises as `find_primary` does."""
        sentinels = tuple(self._addresses)
        reasons: dict[Address, Exception] = {}
        attempts = [partial(_noting, self._ask_replicas, sentinel, reasons) for sentinel in sentinels]
        found = await first_of(attempts, _nothing, [])
        if found is not None:
            return found
        raise self._failure(sentinels, [], reasons)

    @property
    def addresses(self) -> Sequence[Address]:
        """The sentinels that the URL names."""
        return tuple(self._addresses)

    async def view_of(self, sentinel: Address) -> ServiceView:
        """Returns what one sentinel says of the service. The caller sets the deadline.

        Raises:
            StoreError: it does not answer, or does not watch over the service.
        """
        primary = await self._ask_primary(sentinel)
        try:
            reply = await self._ask(sentinel, self._question(b"MASTER"))
        except (AuthenticationError, StoreCommandError):
            return ServiceView(primary)  # the user may not ask for more
        words = reply if isinstance(reply, list) else []
        about = dict(zip(words[::2], words[1::2], strict=False)) if all(map(_is_text, words)) else {}
        others = _count(about.get(b"num-other-sentinels"))
        flags = about.get(b"flags")
        return ServiceView(
            primary,
            _count(about.get(b"quorum")),
            None if others is None else others + 1,
            _count(about.get(b"num-slaves")),
            isinstance(flags, bytes) and not {b"s_down", b"o_down"}.isdisjoint(flags.split(b",")),
        )

    # --------------------------------------------------------------------------------------------------- inside

    def _question(self, subcommand: bytes) -> bytes:
        return encode_command(b"SENTINEL", subcommand, self.service.encode())

    def _ask_first(self, sentinel: Address) -> None:
        """Has the sentinel asked first that was right the last time."""
        if self._addresses[0] != sentinel:
            self._addresses.remove(sentinel)
            self._addresses.insert(0, sentinel)

    async def _ask_primary(self, sentinel: Address) -> Address:
        reply = await self._ask(sentinel, self._primary_question)
        if reply is None:
            raise NoSuchServiceError(
                self._store, f"the sentinel knows no service {self.service!r}; see SENTINEL MASTERS"
            )
        if not isinstance(reply, list) or len(reply) != 2 or (address := _address(*reply)) is None:
            raise StoreProtocolError(
                self._store, "the sentinel names no address of the primary; expected host and port"
            )
        return address

    async def _ask_replicas(self, sentinel: Address) -> list[Address]:
        reply = await self._ask(sentinel, self._replicas_question)
        if not isinstance(reply, list):
            raise StoreProtocolError(self._store, "the sentinel does not answer with a list of replicas")
        found = [_usable(fields) for fields in reply]
        return [address for address in found if address is not None]

    async def _ask(self, sentinel: Address, question: bytes) -> Tree:
        try:
            connection = await self._credentials.log_in(
                lambda credential: self._guesses[sentinel].watch(partial(self._connect, sentinel, credential))
            )
        except AuthenticationError as error:
            hint = "the sentinels are told ?sentinel_username= and ?sentinel_password_file= alone"
            raise AuthenticationError(self._store, f"{shown(sentinel)}: {error.message}; {hint}") from None
        except TLSMismatchError as error:
            hint = "?sentinel_tls= says whether the sentinels speak TLS, where they differ from the data nodes"
            raise TLSMismatchError(self._store, f"{shown(sentinel)}: {error.message}; {hint}") from None
        try:
            await connection.send(question)
            return await read_nested(connection, _REPLY_BYTES, _NAME_BYTES, _DEPTH)
        except StreamClosedError as error:
            raise lost_connection(self._store, error) from None
        except StoreCommandError as error:
            if "unknown command" not in error.message.lower():
                raise
            hint = f"name the sentinels in the URL, which have port {SENTINEL_PORT} by default"
            raise NoSentinelError(
                self._store, f"{shown(sentinel)} is not a sentinel: {error.message}; {hint}"
            ) from None
        finally:
            connection.close()

    def _connect(self, sentinel: Address, credential: Credential) -> Awaitable[Connection]:
        host, port = sentinel
        dial = partial(open_tcp_stream, host, port, self._tls, self._stall_timeout)
        login = Login(credential, 0, b"")
        return open_connection(dial, self._store, login, Tenure(), is_plain=True)

    def _failure(
        self, sentinels: Sequence[Address], refusals: Sequence[StoreError], reasons: dict[Address, Exception]
    ) -> Exception:
        """Returns the one error that says why none of them led to a primary."""
        for error in reasons.values():
            if not isinstance(error, StoreError):
                return error  # a fault of our own
        for refusal in refusals:
            if refusal.permanent:
                return refusal  # such as a wrong password, which another sentinel does not mend
        known = list(reasons.values())
        first = known[0]
        if all(isinstance(error, StoreError) and error.permanent for error in known):
            return first
        told = "; ".join(
            f"{shown(sentinel)}: {error.message if isinstance(error, StoreError) else error}"
            for sentinel, error in reasons.items()
        )
        return StoreUnavailableError(
            self._store, f"none of {len(sentinels)} sentinels leads to the primary of {self.service!r} ({told[:1000]})"
        )


async def _noting(ask: Callable[[Address], Awaitable[T]], sentinel: Address, reasons: dict[Address, Exception]) -> T:
    try:
        return await ask(sentinel)
    except Exception as error:
        reasons[sentinel] = error.with_traceback(None)
        raise


def _nothing(_: object) -> None:
    pass


def _address(host: Tree, port: Tree) -> Address | None:
    """Returns what a sentinel gives as an address, where it is one. Not every peer that says so is a sentinel."""
    if not isinstance(host, bytes) or not isinstance(port, bytes):
        return None
    name = host.decode("ascii", "replace")
    if not name.isascii() or not name.isprintable() or not name or set(name) & set(" /@?#,[]"):
        return None
    if not port.isdigit() or len(port) > 5 or not 0 < int(port) < 65536:
        return None
    return name, int(port)


def _is_text(item: Tree) -> bool:
    return isinstance(item, bytes)


def _count(word: Tree) -> int | None:
    return int(word) if isinstance(word, bytes) and word.isdigit() and len(word) < 10 else None


def _usable(fields: Tree) -> Address | None:
    """Returns the address of a replica, where the sentinel says that it is up and follows its primary."""
    if not isinstance(fields, list):
        return None
    pairs = list(zip(fields[::2], fields[1::2], strict=False))
    about = {name: value for name, value in pairs if isinstance(name, bytes)}
    flags = about.get(b"flags")
    states = set(flags.split(b",")) if isinstance(flags, bytes) else set[bytes]()
    if states & {b"s_down", b"o_down", b"disconnected"} or about.get(b"master-link-status", b"ok") != b"ok":
        return None
    return _address(about.get(b"ip"), about.get(b"port"))


def _credentials(url: RemoteURL, options: SentinelOptions) -> Credentials:
    """Returns what the sentinels are told: never what the data nodes are."""
    without = url.model_copy(update={"username": options.sentinel_username, "password": None})
    own = {
        "password_file": options.sentinel_password_file,
        "password_env": options.sentinel_password_env,
        "credentials": None,
    }
    try:
        return credentials_of(without, options.model_copy(update=own), shown_before="sentinel_")
    except InvalidOptionError as error:
        raise InvalidOptionError(url.redacted(), f"sentinel_{error.option}", "***", error.expected) from None
