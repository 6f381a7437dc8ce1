"""What an audit's URL may say, and LMCache's names for it in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from lmcache_connect import ConnectorOptions, InvalidURLError, RemoteURL
from lmcache_connect.errors import InvalidConfigError

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
    "batched_remove",
    "close",
)
"""What is logged."""

_ACTUAL_URL: Final = "audit_actual_remote_url"
_VERIFY: Final = "audit_verify_checksum"
_EXCLUDE: Final = "audit_exclude_cmds"
_BOOLEAN: Final = TypeAdapter(bool)


def operation_names(text: str | None, known: tuple[str, ...]) -> str | None:
    """`text`, where it is a list of known names with commas between them.

    Raises:
        ValueError: it is not.
    """
    for name in _split(text):
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(known)}")
    return text


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, (text or "").split(","))))


class AuditOptions(ConnectorOptions):
    """`audit+<scheme>://...?audit_verify=true&...`, or `audit://host:port?verify=true&...`"""

    audit_verify: bool | None = None
    """Whether chunks are compared with the checksums of what was put; by default `true`."""

    audit_exclude: str | None = None
    """Operations that are not logged, with commas between them; by default all are."""

    audit_remembered: Annotated[int, Field(ge=1, le=100_000_000)] = 65_536
    """How many keys' checksums are remembered, those used last."""

    verify: bool | None = None
    """LMCache's name for `audit_verify`, for `audit://` alone."""

    @field_validator("audit_exclude")
    @classmethod
    def _known_operations(cls, text: str | None) -> str | None:
        return operation_names(text, OPERATIONS)


@dataclass(frozen=True)
class AuditSettings:
    """What an audit does: whether it verifies, which operations it does not log, how many keys it remembers."""

    verify: bool = True
    exclude: frozenset[str] = frozenset()
    remembered: int = 65_536

    @classmethod
    def of(cls, options: AuditOptions, config: Any) -> AuditSettings:
        """The URL's options, over LMCache's names in the `extra_config` of the configuration, over the defaults.

        Raises:
            InvalidConfigError: one of these names has a value of the wrong type.
        """
        extra = _extra_config(config)
        verify = options.audit_verify if options.audit_verify is not None else options.verify
        if verify is None and extra.get(_VERIFY) is not None:
            try:
                verify = _BOOLEAN.validate_python(extra[_VERIFY])
            except ValidationError:
                raise InvalidConfigError(f"extra_config.{_VERIFY}", "it is neither true nor false") from None
        exclude = options.audit_exclude
        if exclude is None and (excluded := extra.get(_EXCLUDE)) is not None:
            if not isinstance(excluded, str):
                raise InvalidConfigError(f"extra_config.{_EXCLUDE}", "it is no string of names with commas between")
            exclude = excluded  # LMCache's names may be others than ours: what is not known here excludes nothing
        return cls(verify is not False, frozenset(_split(exclude)), options.audit_remembered)


def actual_url(url: RemoteURL, config: Any) -> RemoteURL:
    """The URL that `audit://host:port` stands around: the configuration's, as LMCache names it.

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
            "it is missing, or no string; name the store there, or write audit+redis://... instead of audit://",
        )
    return RemoteURL.parse(actual)


def _extra_config(config: Any) -> Mapping[str, Any]:
    extra = getattr(config, "extra_config", None)
    return extra if isinstance(extra, Mapping) else {}
