"""The options of an audit's URL, and LMCache's names for them in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from lmcache_connect import ConnectorOptions, InvalidURLError, RemoteURL
from lmcache_connect.errors import InvalidConfigError

from .operation_names import checked_names, split_names

OPERATIONS: Final = (
    "get",
    "put",
    "exists",
    "remove",
    "list",
    "scan",
    "ping",
    "batched_get",
    "batched_put",
    "batched_exists",
    "get_into",
    "put_from",
    "batched_get_into",
    "batched_put_from",
    "batched_remove",
    "close",
)
"""The operations that are logged."""

_ACTUAL_URL: Final = "audit_actual_remote_url"
_VERIFY: Final = "audit_verify_checksum"
_EXCLUDE: Final = "audit_exclude_cmds"
_BOOLEAN: Final = TypeAdapter(bool)


class AuditOptions(ConnectorOptions):
    """`audit+<scheme>://...?audit_verify=true&...`, or `audit://host:port?verify=true&...`"""

    audit_verify: bool | None = None
    """Whether chunks are compared with the checksums of what was put. `true` by default."""

    audit_exclude: str | None = None
    """Operations that are not logged, separated by commas. All are logged by default."""

    audit_remembered: Annotated[int, Field(ge=1, le=100_000_000)] = 65_536
    """How many keys' checksums are remembered: those of the keys used last."""

    verify: bool | None = None
    """LMCache's name for `audit_verify`. For `audit://` only."""

    @field_validator("audit_exclude")
    @classmethod
    def _known_operations(cls, text: str | None) -> str | None:
        return checked_names(text, OPERATIONS)


@dataclass(frozen=True)
class AuditSettings:
    """Whether an audit verifies, which operations it does not log, and how many keys' checksums it remembers."""

    verify: bool = True
    exclude: frozenset[str] = frozenset()
    remembered: int = 65_536

    @classmethod
    def of(cls, options: AuditOptions, config: Any) -> AuditSettings:
        """The URL's options; else what `extra_config` says under LMCache's names; else the defaults.

        Raises:
            InvalidConfigError: one of these names has a value of the wrong type.
        """
        extra = _extra_config(config)
        verify = options.audit_verify if options.audit_verify is not None else options.verify
        if verify is None and extra.get(_VERIFY) is not None:
            try:
                verify = _BOOLEAN.validate_python(extra[_VERIFY])
            except ValidationError:
                raise InvalidConfigError(f"extra_config.{_VERIFY}", "expected true or false") from None
        exclude = options.audit_exclude
        if exclude is None and (excluded := extra.get(_EXCLUDE)) is not None:
            if not isinstance(excluded, str):
                raise InvalidConfigError(f"extra_config.{_EXCLUDE}", "expected a string of names, separated by commas")
            exclude = excluded  # LMCache has other operations too: a name that is unknown here excludes nothing
        return cls(verify is not False, frozenset(split_names(exclude)), options.audit_remembered)


def actual_url(url: RemoteURL, config: Any) -> RemoteURL:
    """The URL of the store that `audit://host:port` wraps: `audit_actual_remote_url` of the configuration.

    Raises:
        InvalidURLError: it names more than one host, or the configuration's URL is wrong.
        InvalidConfigError: the configuration has none.
    """
    if len(url.hosts) > 1:
        raise InvalidURLError(url.redacted(), f"{len(url.hosts)} hosts", "a single one: audit://host:port")
    actual = _extra_config(config).get(_ACTUAL_URL) or getattr(config, _ACTUAL_URL, None)
    if not isinstance(actual, str):
        raise InvalidConfigError(
            f"extra_config.{_ACTUAL_URL}",
            "expected the store's URL, as a string; or write audit+redis://... in place of audit://",
        )
    return RemoteURL.parse(actual)


def _extra_config(config: Any) -> Mapping[str, Any]:
    extra = getattr(config, "extra_config", None)
    return extra if isinstance(extra, Mapping) else {}
