"""`ConnectorConfig`: the toolkit's settings, from code or from environment variables `LMCACHE_CONNECT_<SETTING>`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from .errors import InvalidConfigError, InvalidURLError
from .known_secrets import HIDDEN, know
from .redaction import is_secret_name, redact, secrets_of_setting, secrets_of_url
from .url import RemoteURL

_SIZE: Final = re.compile(r"([0-9]{1,18})(\.[0-9]{1,9})? ?([a-z]*)")
_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}


_JSON_ERRORS: Final = frozenset({"tuple_type", "dict_type"})
"""What pydantic calls the error of a list or a table that is given as a text."""


def byte_count(value: object) -> object:
    """The number of bytes that a text such as `1048576`, `512MiB`, `1.5GiB` or `2GB` means; whatever else is returned.

    `KiB`, `MiB`, `GiB` and `TiB` are powers of 1024, `kB`, `MB`, `GB` and `TB` of 1000. Upper and lower case are alike.

    Raises:
        ValueError: the text is not a size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip().lower())
    unit = _UNITS.get(match[3]) if match is not None else None
    if match is None or unit is None:
        raise ValueError("expected a number of bytes, such as 1048576, 512MiB, 1.5GiB or 2GB")
    fraction = match[2] or ""
    digits = len(fraction[1:])
    return int(match[1] + fraction[1:]) * unit // 10**digits


Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
SIZE: Final = BeforeValidator(byte_count)
"""For options and settings of the type `int` that are bytes: text may have a unit."""
Bytes = Annotated[int, SIZE, Field(gt=0, le=1 << 50)]
ErrorMode = Literal["raise", "miss"]

FILE_VARIABLE: Final = "LMCACHE_CONNECT_CONFIG"
"""The environment variable that names the settings file."""


class Settings(BaseSettings):
    """Frozen settings. Code wins over the environment, which wins over the defaults. A subclass adds fields."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_parse_none_str="none",
        env_ignore_empty=True,
    )

    @classmethod
    def load(cls, **settings: Any) -> Self:
        """The settings that are given, with the environment's and the defaults for all others.

        Raises:
            InvalidConfigError: a setting does not exist, or its value has the wrong type or range. No value is shown.
        """
        for name in settings:
            if name not in cls.model_fields:
                known = ", ".join(cls.model_fields)
                raise InvalidConfigError(
                    name, f"no such setting{_meant(name, cls.model_fields)}; expected one of {known}"
                )
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            name = ".".join(map(str, first["loc"]))
            is_json = first["type"] in _JSON_ERRORS and name not in settings
            hint = '; expected JSON in the environment variable, such as ["a", "b"]' if is_json else ""
            raise InvalidConfigError(name or "settings", first["msg"] + hint) from None
        except SettingsError as error:
            raise InvalidConfigError("environment", str(error)) from None

    @classmethod
    def unknown_variables(cls) -> dict[str, str]:
        """Environment variables that begin as those of these settings do, and that no setting is read from.

        Returns the name of each, with the most similar name of a variable that is read; "" where none is similar.
        """
        prefix = str(cls.model_config.get("env_prefix")).upper()
        known = {name.upper() for name in cls.model_fields}
        unknown: dict[str, str] = {}
        for variable in os.environ:
            name = variable.upper().removeprefix(prefix)
            if name != variable.upper() and name not in known and variable.upper() != FILE_VARIABLE:
                similar = _similar(name, known)
                unknown[variable] = f"{prefix}{similar}" if similar else ""
        return unknown


class ConnectorConfig(Settings):
    """Frozen settings for managers and connectors, made by `load()`.

    A setting `name` that code does not give is read from the environment variable `LMCACHE_CONNECT_NAME`. An empty
    variable counts as not set. `extra_config` is JSON there.
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

    announce_interval: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] | None = None
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


def _similar(name: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name, known, 1)), "")


def _meant(name: str, known: Iterable[str]) -> str:
    similar = _similar(name, known)
    return f"; did you mean {similar!r}?" if similar else ""


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
