"""RESP, the protocol of Redis: encodes commands, and turns error replies into typed errors.

Source: https://redis.io/docs/latest/develop/reference/protocol-spec/ (RESP2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from lmcache_connect import AuthenticationError, StoreError, StoreUnavailableError
from lmcache_connect.errors import (
    ReadOnlyStoreError,
    StoreCommandError,
    StoreFullError,
    StoreLoadingError,
    WrongNodeError,
    WrongTypeError,
)
from lmcache_connect.known_secrets import clean_foreign

MAX_VALUE_BYTES: Final = 1 << 32
"""No server holds a longer value. One that says so breaks the protocol."""

MAX_SKIPPED_BYTES: Final = 1 << 20
"""A value that is not wanted is received up to this length. For a longer one, a new connection costs less."""


class ClusterDownError(StoreUnavailableError):
    """The cluster is down, or nobody has the slot of a key. Another key may have a node."""


_ADVICE: Final[dict[str, tuple[Callable[[str, str], StoreError], str]]] = {
    "OOM": (
        StoreFullError,
        "the server's maxmemory is reached; raise it, set a maxmemory-policy that evicts, or a ?ttl=",
    ),
    "READONLY": (ReadOnlyStoreError, "this server is a replica; point the URL at the primary"),
    "LOADING": (StoreLoadingError, "the server is loading its data and answers when that is done"),
    "BUSY": (StoreUnavailableError, "a script blocks the server; wait, or end it with SCRIPT KILL"),
    "MASTERDOWN": (StoreUnavailableError, "the replica has lost its primary"),
    "TRYAGAIN": (StoreUnavailableError, "the cluster is moving this key's slot"),
    "CLUSTERDOWN": (ClusterDownError, "the cluster has lost part of its slots; see CLUSTER INFO"),
    "NOAUTH": (
        AuthenticationError,
        "the server wants a password; give it in the URL, by ?password_file= or ?credentials=",
    ),
    "WRONGPASS": (AuthenticationError, "the user or the password is wrong"),
    "NOPERM": (AuthenticationError, "the user may not do this; see ACL GETUSER on the server"),
    "DENIED": (
        AuthenticationError,
        "the server is in protected mode; set a password or a bind address there",
    ),
    "WRONGTYPE": (WrongTypeError, "the key holds another program's value; use a ?prefix= of your own"),
    "MOVED": (
        WrongNodeError,
        "the server is part of a cluster, and the key lives on another node; use redis-cluster:// or rediss-cluster://",
    ),
    "ASK": (
        WrongNodeError,
        "the server is part of a cluster, and the key is moving to another node; use redis-cluster:// or rediss-cluster://",
    ),
    "CROSSSLOT": (WrongNodeError, "the keys live in different slots of a cluster"),
    "MISCONF": (StoreCommandError, "the server cannot save to its disk and refuses writes; see its log"),
}


class NoSuchKeyError(StoreCommandError):
    """The key that a command needs is not there."""


class ArgumentCountError(StoreCommandError):
    """The server knows the command with another number of arguments."""


class SetupError(StoreCommandError):
    """The server refuses what the URL asks of every connection, such as a database that does not exist."""

    permanent = True


class LapsedLoginError(AuthenticationError):
    """The server does not know any more that the connection has logged in. It has not done what it was told.

    Retried: another connection logs in with the credential as it is by then. If that is wrong, the server says so.
    """

    retryable = True


_ENDING: Final = frozenset({"READONLY", "LOADING", "MASTERDOWN", "MOVED", "NOAUTH"})


def ends_connection(line: str) -> bool:
    """Returns whether an error reply says that a new connection may do better.

    It may lead to another server by now, or log in with another password.
    """
    return cause_of(line).partition(" ")[0] in _ENDING


def cause_of(line: str) -> str:
    """Returns the error reply that another one quotes as its cause, as that to EXEC does where EXEC is refused."""
    return line.removeprefix("EXECABORT Transaction discarded because of: ")


def is_login_missing(line: str) -> bool:
    """Returns whether an error reply says that the connection has to log in first."""
    return line.partition(" ")[0] == "NOAUTH"


def is_refusal(line: str) -> bool:
    """Returns whether an error reply says that the server lacks the command, or that this user may not use it."""
    code = line.partition(" ")[0]
    # Redis says ERR. Proxies and forks often use no code at all; a code of one's own means a state of the server.
    return code == "NOPERM" or (
        (code == "ERR" or not code.isupper())
        and type(reply_error("", line, str)) in {StoreCommandError, NoSuchKeyError, ArgumentCountError}
    )


def reply_error(store: str, line: str, veil: Callable[[str], str] = clean_foreign) -> StoreError:
    """Returns the typed error for an error reply, whose line is given without its leading '-'.

    The line as it came decides its class; `veil` returns what may be shown of it.
    """
    shown = veil(line)[:300]
    line = cause_of(line)
    code = line.partition(" ")[0]
    if (known := _ADVICE.get(code)) is not None:
        kind, advice = known
        return kind(store, f"{advice} (the server said: {shown})")
    lowered = line.lower()
    if "auth" in lowered and ("password" in lowered or "unknown command" in lowered):
        return AuthenticationError(store, f"the server refuses the credentials (it said: {shown})")
    if "max number of clients" in lowered:
        return StoreUnavailableError(store, f"too many clients; raise maxclients on the server (it said: {shown})")
    if "db index is out of range" in lowered or "invalid db index" in lowered:
        return SetupError(store, f"the server has no such database (it said: {shown})")
    kind = StoreCommandError
    if "no such key" in lowered:
        kind = NoSuchKeyError
    elif "wrong number of arguments" in lowered:
        kind = ArgumentCountError
    return kind(store, f"the server refused the command (it said: {shown})")


def encode_command(*args: bytes) -> bytes:
    """Returns a command as RESP."""
    parts = [b"*%d\r\n" % len(args)]
    parts += [b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args]
    return b"".join(parts)


def encode_for_each(command: str, names: Sequence[str]) -> bytes:
    """Returns one command for each name, with the name as its only argument."""
    start = f"*2\r\n${len(command)}\r\n{command}\r\n$"
    # Formatted as text and encoded once, which is a third faster than by name. It is right where characters are bytes.
    text = "".join([f"{start}{len(name)}\r\n{name}\r\n" for name in names])
    if text.isascii():
        return text.encode()
    return b"".join([encode_command(command.encode(), name.encode()) for name in names])


def encode_expiry(milliseconds: int | None) -> bytes:
    """Returns the options of a SET whose key expires after so long. They are empty for None."""
    if milliseconds is None:
        return b""
    digits = b"%d" % milliseconds
    return b"$2\r\nPX\r\n$%d\r\n%b\r\n" % (len(digits), digits)
