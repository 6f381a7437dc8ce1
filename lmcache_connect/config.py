"""Settings of the toolkit: from code, or from environment variables named `LMCACHE_CONNECT_<SETTING>`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from .errors import InvalidConfigError, InvalidURLError
from .redaction import is_secret_name, redact
from .url import RemoteURL

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Bytes = Annotated[int, Field(gt=0, le=1 << 50)]
ErrorMode = Literal["raise", "miss"]


class Settings(BaseSettings):
    """Frozen settings: code beats the environment, which beats the defaults. A subclass adds its prefix and fields."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_parse_none_str="none",
        env_ignore_empty=True,
    )

    @classmethod
    def load(cls, **settings: Any) -> Self:
        """The settings given, over those of the environment, over the defaults.

        Raises:
            InvalidConfigError: an unknown setting, or a value of the wrong type or range. No value is shown.
        """
        for name in settings:
            if name not in cls.model_fields:
                raise InvalidConfigError(name, f"no such setting; expected one of {', '.join(cls.model_fields)}")
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise InvalidConfigError(".".join(map(str, first["loc"])) or "settings", first["msg"]) from None
        except SettingsError as error:
            raise InvalidConfigError("environment", str(error)) from None


class ConnectorConfig(Settings):
    """Frozen settings for managers and connectors. Code beats the environment, which beats the defaults.

    Each setting `name` is read from the environment variable `LMCACHE_CONNECT_NAME`, where an empty one counts as
    none; `extra_config` is JSON.

    Raises:
        InvalidConfigError: from `load()`, naming the setting and what was expected of it.
    """

    model_config = SettingsConfigDict(env_prefix="LMCACHE_CONNECT_")

    url: SecretStr | None = None
    """The store, where the manager is given none. A secret, because it may hold a password."""

    errors: ErrorMode = "raise"
    """`raise`: a failure is a typed error. `miss`: it is a miss or a dropped put, counted by reason."""

    operation_timeout: Seconds = 10.0
    """The deadline of one operation in seconds, to which the time for its bytes is added."""

    min_throughput: Bytes = 32 << 20
    """Bytes per second that a store gives at its worst; an operation on n bytes has n / min_throughput more."""

    allocate_timeout: Seconds = 5.0
    """How long a get waits for room in the arena, in seconds, inside the operation's deadline."""

    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """How often a failed attempt is repeated, inside the operation's deadline."""

    retry_backoff: Seconds = 0.02
    """The pause before the first repetition in seconds; it doubles each time and is jittered."""

    breaker_failures: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Failed operations in a row that open the circuit breaker."""

    breaker_reset: Seconds = 1.0
    """How long the breaker stays open before one call is let through as a probe, in seconds."""

    max_bytes_in_flight: Bytes = 1 << 30
    """Bytes of payload that one connector moves at a time; further operations wait their turn."""

    close_grace: Seconds = 5.0
    """How long `close()` lets operations in flight finish, in seconds."""

    sync_timeout: Seconds = 60.0
    """How long a synchronous call waits at most, in seconds, where it is given no timeout of its own."""

    chunk_size: Annotated[int, Field(ge=1, le=1 << 20)] = 256
    """Tokens in a full chunk."""

    max_local_cpu_bytes: Bytes = 1 << 30
    """The arena of a local CPU backend that a manager makes for itself, in bytes."""

    remote_storage_plugins: tuple[str, ...] = ()
    """Plug-ins by name, `type` or `type.instance`, which `extra_config` says more of. JSON in the environment."""

    allowed_modules: tuple[str, ...] | None = None
    """The modules, by exact name, that plug-ins may be imported from; by default any. JSON in the environment."""

    lmcache_names: bool = False
    """Whether `import lmcache...` finds this toolkit's types, for connectors written for LMCache, without LMCache."""

    import_timeout: Seconds = 10.0
    """How long importing a plug-in's module may take, in seconds."""

    announce_interval: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 10.0
    """Seconds after which a manager tells a store that it uses, if that is a Redis, that it is there; 0: never."""

    extra_config: dict[str, Any] = Field(default_factory=dict, repr=False)
    """Settings of adapters and plug-ins, by name."""

    def shown(self) -> dict[str, Any]:
        """Every setting as plain data, without secrets, for people: what may be one reads `***`.

        Of `extra_config`, whose entries are anybody's, only numbers and the names of modules and classes are shown.
        """
        values = self.model_dump(mode="json", exclude={"url", "extra_config"})
        values["url"] = _address(self.url.get_secret_value()) if self.url is not None else None
        values["extra_config"] = {
            redact(str(name)): value if _is_harmless(str(name), value) else "***"
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
        return "***"
