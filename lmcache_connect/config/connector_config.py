"""`ConnectorConfig`: the toolkit's settings, from code, environment variables and a settings file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from ..errors import InvalidURLError
from ..known_secrets import HIDDEN, know
from ..redaction import is_secret_name, redact, secrets_of_setting, secrets_of_url
from ..url import RemoteURL
from .durations import DURATION, Seconds
from .settings import Settings
from .sizes import SIZE, Bytes

ErrorMode = Literal["raise", "miss"]


class ConnectorConfig(Settings):
    """Frozen settings for managers and connectors, made by `load()`.

    A setting `name` that code does not give is read from the environment variable `LMCACHE_CONNECT_NAME`, and then from
    the settings file. An empty variable counts as not set. `extra_config` is JSON in a variable, a table in the file.
    Seconds and bytes may have a unit, as in `250ms` and `1GiB`.
    """

    model_config = SettingsConfigDict(env_prefix="LMCACHE_CONNECT_")

    url: SecretStr | None = None
    """The store's URL, for a manager that is given none. A secret, because it may contain a password."""

    errors: ErrorMode = "raise"
    """`raise`: a failed operation raises a typed error. `miss`: it is a miss or a dropped put, counted by reason."""

    operation_timeout: Seconds = 10.0
    """The deadline of one operation in seconds, to which the time for its bytes is added."""

    min_throughput: Bytes = 32 << 20
    """A store's lowest throughput, in bytes per second. An operation on n bytes has n / min_throughput seconds more."""

    stall_timeout: Seconds = 3.0
    """Seconds without a byte of progress after which a connection is dead, if the store owes progress."""

    allocate_timeout: Seconds = 5.0
    """How long a get waits for room in the arena, in seconds, inside the operation's deadline."""

    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """How often a failed attempt is repeated, inside the operation's deadline."""

    retry_backoff: Seconds = 0.02
    """The pause before the first repetition, in seconds. It doubles each time and varies at random."""

    breaker_failures: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """How many operations in a row must fail to open the circuit breaker."""

    breaker_reset: Seconds = 1.0
    """How long the breaker stays open before it lets one call through as a probe, in seconds."""

    max_bytes_in_flight: Bytes = 1 << 30
    """Bytes of payload that one connector moves at a time. Further operations wait."""

    remove_damaged: bool = True
    """Whether a record that is found damaged twice is removed, where the rules allow it. Off: it stays a miss."""

    close_grace: Seconds = 5.0
    """How long `close()` lets operations under way go on, in seconds."""

    sync_timeout: Seconds = 60.0
    """How long a synchronous call without a timeout of its own waits at most, in seconds."""

    chunk_size: Annotated[int, Field(ge=1, le=1 << 20)] = 256
    """Tokens in a full chunk."""

    max_local_cpu_bytes: Bytes = 1 << 30
    """The size of the memory that a manager makes for itself, in bytes."""

    warm_ahead: Annotated[int, SIZE, Field(ge=0, le=1 << 50)] = 256 << 20
    """How many bytes of that memory a thread touches ahead of those in use. 0: none, so that first gets are slower."""

    remote_storage_plugins: tuple[str, ...] = ()
    """The names of plug-ins, `type` or `type.instance`. `extra_config` has their settings. JSON in the environment."""

    allowed_modules: tuple[str, ...] | None = None
    """The exact names of modules that plug-ins may be imported from; None: any module. Callables of `?credentials=` are
    imported from these alone; None: no module. JSON in the environment."""

    trusted_modules: tuple[str, ...] = ()
    """The exact names of modules whose `RemoteConnector`s keep their contract; `*`: all. They are called as this
    toolkit's own are: without a private copy of what they put, and in no task that can be left behind. JSON in the
    environment."""

    lmcache_names: bool = False
    """Whether `import lmcache...` gives this toolkit's types, so that connectors written for LMCache run without it."""

    import_timeout: Seconds = 10.0
    """How long importing a plug-in's module may take, in seconds."""

    announce_interval: Annotated[float, DURATION, Field(ge=0, le=86_400, allow_inf_nan=False)] | None = None
    """How often a manager announces itself in the Redis stores that it uses, in seconds. 0: never.

    None: every 10 s while an internal API server serves the manager, and not otherwise: nothing is written into a store
    that others share unless somebody wants it.
    """

    extra_config: dict[str, Any] = Field(default_factory=dict, repr=False)
    """Settings of adapters and plug-ins, by name."""

    def model_post_init(self, _context: Any, /) -> None:
        """Makes the secrets of the URL and of `extra_config` known, for as long as the settings or a copy live."""
        if self.url is not None:
            know(self, *secrets_of_url(self.url.get_secret_value()))
        know(self, *secrets_of_setting("", self.extra_config))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some settings replaced, which are not validated."""
        made = super().model_copy(update=update, deep=deep)
        made.model_post_init(None)
        return made

    def shown(self) -> dict[str, Any]:
        """Every setting as plain data for people. What may be a secret is shown as `***`.

        Of `extra_config`, whose entries may be anything, only numbers and names of modules and classes are shown.
        """
        values = self.model_dump(mode="json", exclude={"url", "extra_config"})
        values["url"] = _address(self.url.get_secret_value()) if self.url is not None else None
        values["extra_config"] = {
            redact(str(name)): value if _is_harmless(str(name), value) else HIDDEN
            for name, value in self.extra_config.items()
        }
        return values


def _is_harmless(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool | float):
        return True
    if isinstance(value, int):  # a long number may be a password
        return abs(value) < 1 << 40 and not is_secret_name(name)
    return isinstance(value, str) and name.endswith((".module_path", ".class_name"))


def _address(url: str) -> str:
    try:
        return RemoteURL.parse(url).label()
    except InvalidURLError:
        return HIDDEN
