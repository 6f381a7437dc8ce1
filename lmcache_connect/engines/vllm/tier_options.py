"""`TierOptions`: what stands beside `type` and `module_path` in vLLM's configuration of the tier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError

from ...config import Bytes, ConnectorConfig, Seconds
from ...errors import InvalidConfigError
from ..jobs import DEADLINE, MAX_WAITING_STORE_BYTES
from ..port_settings import check_option_names
from ..store_url import store_url

_Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class TierOptions:
    """The options of a tier, checked. Every setting of `ConnectorConfig` can be given beside them."""

    url: Annotated[str | None, Field(repr=False)] = None
    """The store's URL. None: the environment variable `LMCACHE_CONNECT_URL` has it. Keep a password out of it."""

    deadline: Seconds = DEADLINE
    """Seconds after which a load or a store that has not ended has failed."""

    lookup_deadline: Seconds = 0.5
    """Seconds after which a key that the store has not answered for counts as missing, so that it is computed."""

    max_waiting_store_bytes: Bytes = MAX_WAITING_STORE_BYTES
    """Bytes of stores that may wait. A store beyond them fails at once, and vLLM goes on."""

    identity: dict[str, Any] = field(default_factory=dict)
    """What vLLM does not tell, such as `{"revision": "5f0b02c", "tenant": "team-a"}`: the fields of `Identity`."""

    strict_identity: bool = False
    """Whether vLLM refuses to start where the identity lacks something that the bytes depend on."""

    name: _Text | None = None
    """The tier's name in metrics. None: its `type`. Give two tiers two names."""

    enable_kv_events: bool = False
    """Whether stored chunks are told as vLLM's KV events, where those are enabled at all."""

    locality: Literal["LOCAL", "REMOTE"] | None = None
    """Where the store is, for a request's `kv_load_tiers` and for events. None: not said, and every filter fits."""

    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    """The settings of `ConnectorConfig` that were given."""

    @classmethod
    def load(cls, given: Mapping[str, Any]) -> Self:
        """Returns the options that vLLM's configuration gives.

        Raises:
            InvalidConfigError: an option is unknown, or its value has the wrong type or range. No value is shown.
        """
        check_option_names(given, sorted(_OWN))
        own: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        for name, value in given.items():
            if name in _OWN:
                own[name] = value
            else:
                settings[name] = value
        try:
            return TypeAdapter(cls).validate_python({**own, "settings": settings})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise InvalidConfigError(
                ".".join(map(str, first["loc"])) or "options", first["msg"].removeprefix("Value error, ")
            ) from None

    def config(self) -> ConnectorConfig:
        """The connector's settings: those that were given, the environment's, and defaults."""
        return ConnectorConfig.load(**self.settings)

    def store_url(self) -> str:
        """The URL, from here or from the environment.

        Raises:
            InvalidConfigError: neither has it.
        """
        return store_url(self.url, "url", "secondary_tiers")


_OWN: Final = frozenset(option.name for option in fields(TierOptions)) - {"settings"}
