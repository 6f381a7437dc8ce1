"""LMCache's engine configuration, made of this toolkit's."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from typing import Any, Final

from ...config import ConnectorConfig
from ...contract import ConnectorContext
from ...errors import InvalidConfigError

_DEFAULTS: Final[dict[str, Any]] = {
    "chunk_size": 256,
    "local_cpu": True,
    "max_local_cpu_size": 5.0,
    "local_disk": None,
    "max_local_disk_size": 0.0,
    "remote_url": None,
    "remote_serde": "naive",
    "remote_storage_plugins": None,
    "storage_plugins": None,
    "use_layerwise": False,
    "save_decode_cache": False,
    "save_unfull_chunk": False,
    "enable_blending": False,
    "enable_async_loading": False,
    "blocking_timeout_secs": 10,
    "cache_policy": "LRU",
    "lmcache_instance_id": None,
    "numa_mode": None,
    "py_enable_gc": True,
    "extra_config": None,
}


class LMCacheEngineConfig:
    """What connectors ask of LMCache's configuration. `toolkit` is the configuration that it was made of, or None.

    A name that is not LMCache's is looked for in `toolkit`.
    """

    def __init__(self, **settings: Any) -> None:
        """Raises `InvalidConfigError` for a setting that is not among these."""
        for name in settings:
            if name not in _DEFAULTS:
                raise InvalidConfigError(name, f"no such setting here; expected one of {', '.join(_DEFAULTS)}")
        vars(self).update(_DEFAULTS, **settings)
        self.toolkit: Any = None
        self.lmcache_instance_id: str = settings.get("lmcache_instance_id") or f"lmcache_connect_{uuid.uuid4().hex}"

    @classmethod
    def of(cls, context: ConnectorContext) -> LMCacheEngineConfig:
        """What a context's configuration says, in LMCache's terms."""
        settings: ConnectorConfig = context.settings
        made = cls(
            chunk_size=settings.chunk_size if context.metadata is None else context.metadata.chunk_size,
            max_local_cpu_size=settings.max_local_cpu_bytes / (1 << 30),
            remote_url=context.url,
            remote_storage_plugins=list(settings.remote_storage_plugins) or None,
            blocking_timeout_secs=max(1, round(settings.operation_timeout)),
            extra_config=dict(settings.extra_config),
        )
        made.toolkit = context.config
        return made

    @classmethod
    def from_defaults(cls, **settings: Any) -> LMCacheEngineConfig:
        """The defaults, and these settings over them."""
        return cls(**settings)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> LMCacheEngineConfig:
        """The defaults, and those of these settings that are known here over them."""
        return cls(**{name: value for name, value in settings.items() if name in _DEFAULTS})

    @classmethod
    def from_env(cls) -> LMCacheEngineConfig:
        """The defaults, and `LMCACHE_...` of the environment over them; anything but a string as JSON.

        Raises:
            InvalidConfigError: a variable holds something else.
        """
        found: dict[str, Any] = {}
        for name, default in _DEFAULTS.items():
            if (text := os.environ.get(f"LMCACHE_{name.upper()}")) is not None:
                found[name] = text if isinstance(default, str) or name == "remote_url" else _parsed(name, text)
        return cls(**found)

    def get_extra_config_value(self, key: str, default_value: Any = None) -> Any:
        """An entry of `extra_config`, or the default."""
        return (self.extra_config or {}).get(key, default_value)

    def to_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return {name: getattr(self, name) for name in _DEFAULTS}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or (toolkit := vars(self).get("toolkit")) is None:
            raise AttributeError(f"LMCacheEngineConfig has no {name} here; it has {', '.join(_DEFAULTS)}")
        return getattr(toolkit, name)

    def __repr__(self) -> str:
        return f"<LMCacheEngineConfig chunk_size={self.chunk_size}>"  # the URL and extra_config may hold passwords


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise InvalidConfigError(f"LMCACHE_{name.upper()}", "it is no JSON") from None


def toolkit_config(config: Any) -> Any:
    """The configuration that LMCache's was made of; anything else as it is."""
    made_of = config.toolkit if isinstance(config, LMCacheEngineConfig) else None
    return config if made_of is None else made_of
