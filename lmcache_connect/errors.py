"""Every exception of the toolkit. Each has its facts as fields and builds its own message from them.

Most classes also derive from a builtin exception (`ValueError`, `ConnectionError`, ...), so that code which knows
nothing of this package can catch them. No message and no field contains a password: URLs are given to these classes
redacted, and every known secret is taken out of what they are given (see `known_secrets`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final

from .known_secrets import clean


class LMCacheConnectError(Exception):
    """Base of every error of this package. It can be pickled with its fields, and so be sent to another process."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(clean(given) if isinstance(given, str) else given for given in args))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, clean(value) if isinstance(value, str) else value)

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with the finished message instead of the facts.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[LMCacheConnectError], args: tuple[Any, ...], fields: dict[str, Any]) -> LMCacheConnectError:
    # Not by `kind.__new__`, which may be a sibling base's, such as MemoryError's, and refuses other classes.
    error = (OSError if issubclass(kind, OSError) else Exception).__new__(kind)
    super(LMCacheConnectError, error).__init__(*args)  # sets the builtin's args and, for an ImportError, its msg
    error.__dict__.update(fields)
    return error


class HiddenError(LMCacheConnectError):
    """Stands for an error of a server or of other people's code, whose text repeats a secret.

    `kind` is the name of its class, and `text` what may be shown of what it said.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


# --------------------------------------------------------------------------------------------- wrong input


class InvalidURLError(LMCacheConnectError, ValueError):
    """A store URL cannot be understood. `url` is redacted."""

    def __init__(self, url: str, reason: str, expected: str) -> None:
        super().__init__(f"invalid URL {url!r}: {reason}; expected {expected}")
        self.url = url
        self.reason = reason
        self.expected = expected


class UnknownSchemeError(InvalidURLError, LookupError):
    """No adapter is known for the URL's scheme. Schemes match exactly. `known` names those that there are."""

    def __init__(self, url: str, scheme: str, known: Iterable[str]) -> None:
        self.scheme = scheme
        self.known = tuple(sorted(known))
        super().__init__(
            url,
            f"no adapter for the scheme {scheme!r}",
            f"one of {_known(self.known)}, or an adapter given to register()",
        )


class UnknownOptionError(InvalidURLError):
    """The URL's query names an option that its adapter does not have. `known` names those that it has."""

    def __init__(self, url: str, option: str, known: Iterable[str]) -> None:
        self.option = option
        self.known = tuple(sorted(known))
        super().__init__(url, f"unknown option {option!r}", f"one of {_known(self.known)}")


ANY_OPTION: Final = "?"
"""The `option` of an `InvalidOptionError` that is about several options together."""


class InvalidOptionError(InvalidURLError):
    """An option of the URL has a value of the wrong type or range. A secret value is `***`.

    Where several options do not go together, `option` is `?` and `value` is empty.
    """

    def __init__(self, url: str, option: str, value: str, expected: str) -> None:
        self.option = option
        self.value = value
        wrong = "its options do not go together" if option == ANY_OPTION else f"option {option!r} is {value!r}"
        super().__init__(url, wrong, expected)


class InvalidConfigError(LMCacheConnectError, ValueError):
    """A setting, from code or from the environment, has a wrong name, type or range."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"invalid setting {setting!r}: {reason}")
        self.setting = setting
        self.reason = reason


class InvalidKeyError(LMCacheConnectError, ValueError):
    """A key cannot be represented in the stores' key format."""

    def __init__(self, key: object, reason: str) -> None:
        super().__init__(f"invalid key {_shortened(key)}: {reason}")
        self.key = key
        self.reason = reason


class UnknownDtypeError(LMCacheConnectError, ValueError):
    """A name or an object is not one of the dtypes that chunks can have."""

    def __init__(self, dtype: object, known: Iterable[str]) -> None:
        self.dtype = dtype
        self.known = tuple(known)
        super().__init__(f"unknown dtype {_shortened(dtype)}; expected one of {', '.join(self.known)}")


class InvalidShapeError(LMCacheConnectError, ValueError):
    """Shapes, dtypes or a memory format do not describe a chunk."""

    def __init__(self, shape: object, reason: str) -> None:
        super().__init__(f"invalid shape {_shortened(shape)}: {reason}")
        self.shape = shape
        self.reason = reason


class InvalidArgumentError(LMCacheConnectError, ValueError):
    """An argument of a call is wrong, or does not fit another one."""

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(f"invalid argument {argument!r}: {reason}")
        self.argument = argument
        self.reason = reason


# ------------------------------------------------------------------------------------- adapters and plug-ins


class AdapterLoadError(LMCacheConnectError, ImportError):
    """A scheme's adapter is known by name, but its module, its class or its driver cannot be imported.

    `extra` is the extra of this distribution that installs the driver, where that is what is missing.
    """

    def __init__(self, scheme: str, target: str, distribution: str, reason: str, extra: str | None = None) -> None:
        hint = f"; install it with: pip install 'lmcache-connect[{extra}]'" if extra else ""
        super().__init__(
            f"the adapter for {scheme}:// ({target}, from the distribution {distribution}) cannot be loaded: "
            f"{reason}{hint}"
        )
        self.scheme = scheme
        self.target = target
        self.distribution = distribution
        self.reason = reason
        self.extra = extra


class MissingExtraError(LMCacheConnectError, ImportError):
    """A part of the toolkit was used whose packages are not installed. `extra` installs them."""

    def __init__(self, feature: str, module: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package {module!r}, which is not installed; "
            f"install it with: pip install 'lmcache-connect[{extra}]'"
        )
        self.feature = feature
        self.module = module
        self.extra = extra


class MissingEngineError(LMCacheConnectError, ImportError):
    """A class that an engine loads was asked for where that engine is not installed. `engine` is its name."""

    def __init__(self, feature: str, engine: str, module: str) -> None:
        super().__init__(
            f"{feature} runs inside {engine}, and the package {module!r} is not installed in this environment; "
            f"install lmcache-connect into the environment of {engine}"
        )
        self.feature = feature
        self.engine = engine
        self.module = module


class LMCacheInstalledError(LMCacheConnectError, RuntimeError):
    """LMCache's import names were asked for, and LMCache itself is installed. `version` is its version, or ""."""

    def __init__(self, version: str) -> None:
        super().__init__(
            f"LMCache {version or 'of an unknown version'} is installed, and its modules are not shadowed: connectors "
            "written for it load as they are, so leave out compat.install() and the setting lmcache_names; or "
            "uninstall it (pip uninstall lmcache) to run them without it"
        )
        self.version = version


class PluginError(LMCacheConnectError):
    """A class that a URL or the configuration names cannot be used.

    `distribution` is the installed package that the module belongs to, or "" where none is known. An error that the
    plug-in itself raised is the `__cause__`.
    """

    def __init__(self, module: str, class_name: str, distribution: str, reason: str) -> None:
        origin = f", from the distribution {distribution}" if distribution else ""
        super().__init__(f"the plug-in {module}:{class_name}{origin} cannot be used: {reason}")
        self.module = module
        self.class_name = class_name
        self.distribution = distribution
        self.reason = reason


class PluginImportError(PluginError, ImportError):
    """A plug-in's module cannot be imported: it does not exist, is not allowed, takes too long, or raised an error."""


class PluginClassMissingError(PluginError, AttributeError):
    """A plug-in's module has no class of this name."""


class PluginTypeError(PluginError, TypeError):
    """A plug-in's class is not a connector, or its constructor asks for arguments that it cannot be given."""


class PluginConstructionError(PluginError, RuntimeError):
    """The constructor of a plug-in's class raised an error."""


class DuplicateSchemeError(LMCacheConnectError, ValueError):
    """A scheme is registered already, and `replace=True` was not given."""

    def __init__(self, scheme: str, registered: str, offered: str) -> None:
        super().__init__(
            f"the scheme {scheme!r} is registered already by {registered}; {offered} was refused: "
            f"pass replace=True to take its place"
        )
        self.scheme = scheme
        self.registered = registered
        self.offered = offered


class AmbiguousSchemeError(LMCacheConnectError, ValueError):
    """Installed packages claim one scheme for different adapters. `claims` names each with its distributions."""

    def __init__(self, scheme: str, claims: Iterable[str]) -> None:
        self.claims = tuple(claims)
        super().__init__(
            f"the scheme {scheme!r} is claimed by {' and '.join(self.claims)}: "
            f"uninstall all but one, or choose one with register_adapter(<the adapter>, replace=True)"
        )
        self.scheme = scheme


class UnknownConnectorError(LMCacheConnectError, LookupError):
    """A manager has no connector of this name. `known` names those that it has."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.known = tuple(known)
        super().__init__(f"there is no connector {name!r}; expected one of {_known(self.known)}")
        self.name = name


class UnsupportedOperationError(LMCacheConnectError, NotImplementedError):
    """A connector's store does not have this operation."""

    def __init__(self, connector: str, operation: str) -> None:
        super().__init__(f"{connector} does not support {operation}()")
        self.connector = connector
        self.operation = operation


class ConnectorContractError(LMCacheConnectError, TypeError):
    """A connector or an adapter broke its contract: it returned or raised something that it must not."""

    def __init__(self, connector: str, operation: str, got: str, expected: str) -> None:
        super().__init__(f"{connector}.{operation} {got}; expected {expected}")
        self.connector = connector
        self.operation = operation
        self.got = got
        self.expected = expected


# ---------------------------------------------------------------------------------------------------- memory


class ReleasedObjectError(LMCacheConnectError, RuntimeError):
    """A memory object was used after its last reference had been released."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"{operation}: this memory object was released; a released object cannot be used again")
        self.operation = operation


class ForeignObjectError(LMCacheConnectError, ValueError):
    """A call was given a memory object of another backend, or something that is not a memory object."""

    def __init__(self, got: str, expected: str) -> None:
        super().__init__(f"got {got}; expected {expected}")
        self.got = got
        self.expected = expected


class ArenaExhaustedError(LMCacheConnectError, MemoryError):
    """The arena has no room. Sizes are bytes."""

    def __init__(self, requested: int, free: int, capacity: int, detail: str = "") -> None:
        super().__init__(
            f"no room for {requested} bytes in the arena: {free} of {capacity} bytes are free"
            + (f" ({detail})" if detail else "")
            + "; release memory objects or give LocalCPUBackend a larger max_bytes"
        )
        self.requested = requested
        self.free = free
        self.capacity = capacity


class AllocationTimeoutError(ArenaExhaustedError, TimeoutError):
    """The arena had no room in time. `waited` is how long the call waited for room, in seconds."""

    def __init__(self, requested: int, free: int, capacity: int, waited: float) -> None:
        super().__init__(requested, free, capacity, f"waited {waited:.3f} s")
        self.waited = waited


class BackendClosedError(LMCacheConnectError, RuntimeError):
    """The memory for chunks was closed."""

    def __init__(self) -> None:
        super().__init__(
            "the memory for chunks is closed; create a new LocalCPUBackend, or restart the engine that owns it"
        )


# ------------------------------------------------------------------------------------------------- the record


class CorruptRecordError(LMCacheConnectError, ValueError):
    """A stored record does not verify. It is counted as a miss and never returned.

    `reason` is one word, by which records are counted (`"checksum"`, `"length"`, `"key"`, ...). `removable` says that
    it carries this toolkit's magic and a version that this release knows, and is nobody's valid data. Only then may it
    be removed, after a second look (see `RemoteConnector.remove_damaged`). Everything else stays.
    """

    def __init__(self, reason: str, detail: str, *, removable: bool = False) -> None:
        super().__init__(f"the stored record does not verify ({reason}): {detail}")
        self.reason = reason
        self.detail = detail
        self.removable = removable


class ChunkMissingError(LMCacheConnectError, LookupError):
    """`connector.chunk(key)` found no chunk that it could give. `key` is the key's string.

    The store does not hold it, or holds a record that does not verify; with the setting `errors="miss"`, also: the
    store failed. The metrics have the reason.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"no chunk was found under the key {_shortened(key)}; get() returns None where that is usual")
        self.key = key


class FrameError(CorruptRecordError):
    """The frame around a stored chunk does not verify: its header, its parts or its trailer. See `docs/record.md`.

    It is `removable` unless its raiser says otherwise, since most checks come after that of the magic and the version.
    """

    def __init__(self, reason: str, detail: str, *, removable: bool = True) -> None:
        super().__init__(reason, detail, removable=removable)


# ------------------------------------------------------------------------------------------ loops and lifetime


class ConnectorClosedError(LMCacheConnectError, RuntimeError):
    """A connector, a manager or a loop owner was closed before or during the call."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is closed; create a new one")
        self.what = what


class SyncCallOnLoopError(LMCacheConnectError, RuntimeError):
    """A synchronous call was made on the thread of the owning event loop, which would then wait for itself."""

    def __init__(
        self, operation: str, detail: str = "await the coroutine instead, or call from another thread"
    ) -> None:
        super().__init__(
            f"{operation} was called synchronously on the thread of the event loop that owns the connector, "
            f"where it would wait for itself; {detail}"
        )
        self.operation = operation


class LoopNotRunningError(LMCacheConnectError, RuntimeError):
    """The owning event loop is not running, or is closed, so the call could never be answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the owning event loop cannot run this call: {reason}")
        self.reason = reason


class SyncTimeoutError(LMCacheConnectError, TimeoutError):
    """A synchronous call got no answer from the owning loop within `seconds`, and was cancelled."""

    def __init__(self, operation: str, seconds: float) -> None:
        super().__init__(f"{operation} got no answer from the owning event loop within {seconds:.3f} s")
        self.operation = operation
        self.seconds = seconds


class ForkedProcessError(LMCacheConnectError, RuntimeError):
    """The object belongs to the parent process. Its sockets, loop and memory cannot be used in a fork."""

    def __init__(self, what: str, owner_pid: int, pid: int) -> None:
        super().__init__(
            f"{what} was created in process {owner_pid} and cannot be used in its fork {pid}; "
            f"create a new one after the fork"
        )
        self.what = what
        self.owner_pid = owner_pid
        self.pid = pid


# ---------------------------------------------------------------------------------------------------- the store


class Incident:
    """One event that fails several calls, such as the loss of a connection that they share. See `StoreError`."""


class StoreError(LMCacheConnectError):
    """An operation on a store failed. With the setting `errors="miss"` it becomes a miss or a dropped put.

    `retryable` says that the same call may succeed a moment later. `permanent` says that an operator must act: such an
    error is raised with `errors="miss"`, too. `incident` is the event that failed this call and perhaps others, such as
    the loss of a connection that they shared; None: no other call. Failures of one incident count once for the circuit
    breaker. It is not pickled.
    """

    retryable: ClassVar[bool] = False
    permanent: ClassVar[bool] = False
    incident: Incident | None = None

    def __init__(self, store: str, message: str) -> None:
        super().__init__(f"{store}: {message}")
        self.store = store
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {name: value for name, value in self.__dict__.items() if name != "incident"}
        return _restored, (type(self), self.args, fields)


class StoreUnavailableError(StoreError, ConnectionError):
    """The store cannot be reached, or it dropped the connection."""

    retryable = True


class OperationTimeoutError(StoreError, TimeoutError):
    """The operation's deadline passed. `seconds` is the time that it was given."""

    def __init__(self, store: str, operation: str, seconds: float, detail: str = "") -> None:
        super().__init__(
            store, f"{operation} did not finish within {seconds:.3f} s" + (f" ({detail})" if detail else "")
        )
        self.operation = operation
        self.seconds = seconds


class CircuitOpenError(StoreUnavailableError):
    """The circuit breaker refuses calls for now, after repeated failures. `retry_in` is seconds."""

    retryable = False

    def __init__(self, store: str, failures: int, retry_in: float) -> None:
        super().__init__(
            store,
            f"the circuit breaker is open after {failures} failures in a row; next probe in {retry_in:.2f} s",
        )
        self.failures = failures
        self.retry_in = retry_in


class AuthenticationError(StoreError, PermissionError):
    """The store refused the credentials, or was given none and requires them (NOAUTH, WRONGPASS, NOPERM)."""

    permanent = True


class CertificateError(StoreError, ConnectionError):
    """The peer's TLS certificate does not verify, or the peer does not accept this end's. Never retried."""

    permanent = True


class TLSMismatchError(StoreError, ConnectionError):
    """One end speaks TLS and the other one does not, or no version and cipher that both know. Never retried."""

    permanent = True


class StoreFullError(StoreError):
    """The store has no memory left for writes (OOM). Reads still work."""


class ReadOnlyStoreError(StoreError):
    """The server is a read-only replica. Retried: after a failover, the address leads to the new primary."""

    retryable = True


class StoreStalledError(StoreUnavailableError):
    """The store owed an answer, or had to take what was sent, and no byte moved for `stall_timeout` seconds.

    The connection was closed.
    """


class StoreLoadingError(StoreUnavailableError):
    """The server is loading its data from disk and will answer soon."""


class WrongTypeError(StoreError, TypeError):
    """The key holds a value of another kind, which another program has written. It is left as it is."""


class WrongNodeError(StoreError):
    """A cluster node says that another node has the key (MOVED, ASK, CROSSSLOT)."""


class StoreProtocolError(StoreError, ConnectionError):
    """The server's answer breaks the protocol. The connection is dropped."""

    retryable = True


class StoreCommandError(StoreError):
    """The server refused a command for a reason that has no class of its own."""


class ConnectorFailureError(StoreError):
    """A connector raised an error that is not one of this package. It is the `__cause__`.

    `SystemExit`, `GeneratorExit` and a `CancelledError` that nobody asked for become one, too.
    """


class AbandonedCallsError(StoreUnavailableError):
    """So many calls of a connector did not end in time, and still run, that it gets no further ones for now.

    `calls` is their number, and `held` the bytes that they hold. Calls are admitted again when some have ended.
    """

    retryable = False

    def __init__(self, store: str, operation: str, calls: int, held: int) -> None:
        super().__init__(
            store,
            f"{operation} is refused: {calls} earlier calls did not end in time and still run, holding {held} bytes; "
            "if they hang for ever, restart the process and mend the code that was called",
        )
        self.operation = operation
        self.calls = calls
        self.held = held


class ValueTooLargeError(StoreError, ValueError):
    """A value exceeds what may be stored or received. Sizes are bytes."""

    def __init__(self, store: str, size: int, limit: int) -> None:
        super().__init__(store, f"a value of {size} bytes exceeds the limit of {limit} bytes")
        self.size = size
        self.limit = limit


# ----------------------------------------------------------------------------------------------------- messages


def _known(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _shortened(value: object, limit: int = 200) -> str:
    try:
        text = repr(value)
    except Exception:  # of an integer of more than 4300 digits, for example: it must not hide the error at hand
        text = f"<{type(value).__name__} without a repr>"
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
