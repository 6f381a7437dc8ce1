"""LMCache's engine configuration, in its place."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from typing import Any, Final

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
    """The settings that guests read. `original` is the configuration that it was made from, or None.

    A name that is not defined here is read from `original`.
    """

    def __init__(self, **settings: Any) -> None:
        """Raises `InvalidConfigError` for a setting that is not known here."""
        for name in settings:
            if name not in _DEFAULTS:
                raise InvalidConfigError(name, f"no such setting here; expected one of {', '.join(_DEFAULTS)}")
        vars(self).update(_DEFAULTS, **settings)
        self.original: Any = None
        self.lmcache_instance_id: str = settings.get("lmcache_instance_id") or f"lmcache_connect_{uuid.uuid4().hex}"

    @classmethod
    def of(cls, original: Any, **settings: Any) -> LMCacheEngineConfig:
        """The defaults and these settings, made from the configuration `original`."""
        made = cls(**settings)
        made.original = original
        return made

    @classmethod
    def from_defaults(cls, **settings: Any) -> LMCacheEngineConfig:
        """These settings, and the defaults for all others."""
        return cls(**settings)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> LMCacheEngineConfig:
        """These settings, and the defaults for all others. Unknown names are left out."""
        return cls(**{name: value for name, value in settings.items() if name in _DEFAULTS})

    @classmethod
    def from_env(cls) -> LMCacheEngineConfig:
        """Settings from the environment variables `LMCACHE_<NAME>`, and the defaults for all others.

        A value that is not a string is written as JSON.

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
        if name.startswith("__") or (original := vars(self).get("original")) is None:
            raise AttributeError(f"LMCacheEngineConfig has no {name} here; it has {', '.join(_DEFAULTS)}")
        return getattr(original, name)

    def __repr__(self) -> str:
        return f"<LMCacheEngineConfig chunk_size={self.chunk_size}>"  # the URL and extra_config may hold passwords


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise InvalidConfigError(f"LMCACHE_{name.upper()}", "it is not JSON") from None
