"""Setting up a connection: authenticate, select the database, and ask what the server can do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from lmcache_connect import StoreError
from lmcache_connect.errors import (
    CertificateError,
    ReadOnlyStoreError,
    StoreCommandError,
    StoreFullError,
    StoreUnavailableError,
    TLSMismatchError,
    WrongNodeError,
)
from lmcache_connect.known_secrets import clean_foreign
from lmcache_connect.transport import (
    CertificateRefusedError,
    NotTLSError,
    Stream,
    StreamClosedError,
    TLSSettingsError,
)

from .connection import Connection, lost_connection
from .credential import Credential, LatestCredential
from .replies import ArgumentCountError, ClusterDownError, encode_command, reply_error
from .role import ASK_ROLE, read_role
from .tenure import Tenure
from .traits import ServerTraits

CLIENT_NAME: Final = "lmcache-connect"

_TLS_ALERTS: Final = (b"\x15\x03",)
"""How a TLS server answers what is not TLS: the beginning of an alert."""

Dial = Callable[[], Awaitable[Stream]]


@dataclass(frozen=True, slots=True)
class Login:
    """What a connection says of itself to the server before anything else.

    Attributes:
        credential: the user and the password.
        database: the number of the database. 0 is every server's own choice and is not selected.
        probe: a key under the connector's prefix that never exists, for asking which commands the user may use.
        latest: where a later credential will be found, with which the connection is to log in again; None: never.
    """

    credential: Credential
    database: int
    probe: bytes
    latest: LatestCredential | None = None


class CommandsRefusedError(Exception):
    """The peer closed the connection when it was asked what it can do, as some proxies do at commands they lack."""


async def open_connection(
    dial: Dial, store: str, login: Login, tenure: Tenure, *, is_plain: bool = False
) -> Connection:
    """Connects, authenticates and selects the database. The caller sets the deadline.

    With `is_plain` nothing else is sent but EXISTS, for proxies that know little; the connection's traits are then
    those of a server that can do little. RESP3 is never asked for: with its push messages, an unsolicited reply could
    be taken for the next command's.

    Raises:
        CommandsRefusedError: the connection is to be opened again, `is_plain`.
        TLSMismatchError: the server speaks TLS, and `dial` does not, or the other way round.
        StoreUnavailableError, AuthenticationError, CertificateError, and what else the server answers.
    """
    try:
        stream = await dial()
    except TLSSettingsError as error:
        raise CertificateError(store, str(error)) from error
    except NotTLSError as error:
        raise speaks_no_tls(store) from error
    except StreamClosedError as error:
        raise lost_connection(store, error) from error
    connection = Connection(stream, store, tenure=tenure, veil=login.credential.hide)
    connection.credential, connection.latest = login.credential, login.latest
    try:
        await _authenticate(connection, login.credential)
        if is_plain:
            await _select(connection, login, encode_command(b"EXISTS", login.probe))
            await _is_taken(connection)
            connection.traits = ServerTraits(has_transactions=False, has_unlink=False, knows_little=True)
        else:
            connection.traits = await _ask(connection, login)
        if connection.pending or connection.stream.buffered:
            raise connection.broken("it says more than it was asked")
        if not connection.is_reusable:  # what another connection has read meanwhile ended the trust in this server
            raise StoreUnavailableError(store, "another server has taken this one's place, or the connection was lost")
        connection.veil = clean_foreign  # later errors may name the user: that is not a secret, and says much
        return connection
    except StreamClosedError as error:
        connection.close()
        # Not from it: a server, or something that looks like one, may have repeated the credentials.
        raise _lost(store, error, login) from None
    except BaseException:
        connection.close()
        raise


def log_in_again(connection: Connection) -> Coroutine[Any, Any, None] | None:
    """Logs a connection in with the latest credential, before it is used for the next call. None: that is not due.

    It keeps its database and its name. The caller sets the deadline, and closes the connection where this raises.

    Raises:
        StreamClosedError: it was lost. AuthenticationError, and what else the server answers.
    """
    return _log_in_again(connection) if connection.is_login_due else None


async def _log_in_again(connection: Connection) -> None:
    latest = connection.latest
    assert latest is not None  # noqa: S101  # it is due
    credential = latest.credential  # read once: a later one may come meanwhile
    connection.veil = credential.hide
    await _authenticate(connection, credential)
    connection.credential = credential
    connection.veil = clean_foreign


async def _authenticate(connection: Connection, credential: Credential) -> None:
    if credential.username is None and credential.password is None:
        return
    secret = credential.secret.encode()
    if credential.username is None:
        await connection.send(encode_command(b"AUTH", secret))
        await connection.read_ok()
        return
    await connection.send(encode_command(b"AUTH", credential.username.encode(), secret))
    try:
        await connection.read_ok()
    except ArgumentCountError:
        await connection.send(encode_command(b"AUTH", secret))  # a server from before there were users
        await connection.read_ok()


async def _select(connection: Connection, login: Login, further: bytes, replies: int = 1) -> None:
    """Selects the database and sends further commands in the same packet. Their replies are still to be read."""
    if login.database:
        await connection.send(encode_command(b"SELECT", b"%d" % login.database))
    await connection.send(further, replies)
    if login.database:
        await connection.read_ok()


async def _ask(connection: Connection, login: Login) -> ServerTraits:
    """Names the connection, where the server lets us, and finds out what the server can do. Costs one round trip.

    The rehearsed transaction is discarded. Where MULTI is refused, its commands find no key and change nothing.
    """
    probe = login.probe
    commands = (
        encode_command(b"CLIENT", b"SETNAME", CLIENT_NAME.encode()),
        ASK_ROLE,
        encode_command(b"UNLINK", probe),
        encode_command(b"MULTI"),
        encode_command(b"PEXPIRE", probe, b"1"),
        encode_command(b"PERSIST", probe),
        encode_command(b"RENAME", probe, probe),
        encode_command(b"DISCARD"),
    )
    try:
        await _select(connection, login, b"".join(commands), len(commands))
        is_named = await _is_taken(connection)  # and it is logged in, if it has to be
        role = await read_role(connection)
        unlinks = await _is_known(connection)
        began, *queued, ended = [await _is_taken(connection) for _ in commands[3:]]
    except StreamClosedError as error:
        if isinstance(error, CertificateRefusedError) or error.last_words.startswith((b"-", *_TLS_ALERTS)):
            raise  # it says why
        raise CommandsRefusedError from None
    if began and not ended:
        raise CommandsRefusedError  # the transaction is still open
    niceties = {"CLIENT SETNAME": is_named, "ROLE": role is not None, "UNLINK": unlinks}
    refused = tuple(nicety for nicety, is_there in niceties.items() if not is_there)
    return ServerTraits(began and all(queued), has_unlink=unlinks, role=role, refused=refused)


async def _is_known(connection: Connection) -> bool:
    """Returns whether a nicety is there. Whatever else the server says of it is said again where it is used."""
    try:
        return await connection.read_taken()
    except StoreError:
        if not connection.stream.is_open:
            raise
        return True


async def _is_taken(connection: Connection) -> bool:
    try:
        return await connection.read_taken()
    except (ReadOnlyStoreError, StoreFullError, StoreCommandError, WrongNodeError, ClusterDownError):
        return True  # the server knows the command; its state, which may change, forbids it now


def speaks_tls(store: str) -> TLSMismatchError:
    """Returns the error for a server that speaks TLS, where the URL says that it does not."""
    hint = "use its port without TLS, or a scheme with TLS, such as rediss://"
    return TLSMismatchError(store, f"the server speaks TLS on this port; {hint}")


def speaks_no_tls(store: str) -> TLSMismatchError:
    """Returns the error for a server that speaks no TLS, where the URL says that it does."""
    hint = "use its TLS port, or a scheme without TLS, such as redis://"
    return TLSMismatchError(store, f"the server speaks no TLS on this port; {hint}")


def _lost(store: str, error: StreamClosedError, login: Login) -> StoreError:
    """Returns the error for a connection that was closed during set-up. What the server said before is its reason."""
    if error.last_words.startswith(_TLS_ALERTS):
        return speaks_tls(store)
    line, ending, _ = error.last_words.partition(b"\r\n")
    if ending and line.startswith(b"-"):
        return reply_error(store, line[1:].decode("utf-8", "replace"), login.credential.hide)
    return lost_connection(store, error, login.credential.hide)
