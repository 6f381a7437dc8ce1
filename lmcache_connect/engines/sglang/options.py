"""`Options`: what the operator writes for HiCache's extra config, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from ...errors import InvalidConfigError
from ..jobs import DEADLINE, MAX_WAITING_STORE_BYTES
from ..port_settings import check_option_names
from ..store_url import store_url

_OF_SGLANG: Final = frozenset(
    {
        "backend_name",
        "module_path",
        "class_name",
        "tp_lcm_size",
        "prefetch_threshold",
        "prefetch_timeout_base",
        "prefetch_timeout_per_ki_token",
        "hicache_storage_pass_prefix_keys",
    }
)
"""Names in the extra config that SGLang itself reads. It takes most of them out."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the extra config says. Every other name in it is a setting of `ConnectorConfig`.

    Attributes:
        url: the store's URL. Where none is given, the environment variable `LMCACHE_CONNECT_URL` has it.
        interface_v1: whether HiCache uses the interface without copies (`batch_get_v1`), as SGLang reads it.
        deadline: seconds after which a call of HiCache's has its answer.
        max_waiting_store_bytes: further stores are shed while more bytes than this wait for their beginning.
        skip_existing: whether pages that the store already has are not sent again.
        identity: what SGLang does not tell of its pages' bytes, by the names of `Identity`.
        strict_identity: whether SGLang is refused the start where dtype, layout or revision is not known.
        settings: the settings of `ConnectorConfig`, by name.
    """

    url: str
    interface_v1: bool = False
    deadline: float = DEADLINE
    max_waiting_store_bytes: int | str = MAX_WAITING_STORE_BYTES
    skip_existing: bool = True
    identity: Mapping[str, Any] = field(default_factory=dict)
    strict_identity: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, extra_config: Mapping[str, Any] | None) -> Self:
        """Reads HiCache's extra config.

        Raises:
            InvalidConfigError: there is no URL, a name is unknown, or a value has a wrong type.
        """
        given = {name: value for name, value in (extra_config or {}).items() if name not in _OF_SGLANG}
        check_option_names(given, _OWN)
        url = store_url(given.pop("url", None), "url", "--hicache-storage-backend-extra-config")
        own: dict[str, Any] = {name: given.pop(name) for name in _OWN if name in given}
        for name in ("skip_existing", "strict_identity"):
            if not isinstance(own.get(name, False), bool):
                raise InvalidConfigError(name, "expected true or false")
        if not isinstance(own.get("identity", {}), Mapping):
            raise InvalidConfigError("identity", "expected fields by name, such as revision and tenant")
        own["interface_v1"] = bool(own.get("interface_v1", False))  # as SGLang does
        return cls(url=url, settings=given, **own)


_OWN: Final = tuple(name for name in Options.__dataclass_fields__ if name not in ("url", "settings"))
