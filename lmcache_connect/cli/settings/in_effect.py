"""The settings in effect, with the source of each. No secret is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ...config import ConnectorConfig, Origin, Settings, SettingsFile
from ...errors import MissingExtraError, UnknownSchemeError
from ...known_secrets import HIDDEN
from ...manager import default_registry
from ...url import RemoteURL
from ..frame.fields import written

API_PREFIX: Final = "api."


@dataclass(frozen=True)
class SettingReport:
    """One setting. `value` is as a person writes it, with secrets hidden, or None.

    Those of the API server are named `api.<setting>`.
    """

    name: str
    value: str | None
    origin: Origin

    @property
    def is_default(self) -> bool:
        """Whether nobody has set it."""
        return self.origin.kind == "default"


@dataclass(frozen=True)
class SettingsReport:
    """All settings, and the file that they were read from; None where none is named."""

    file: str | None
    settings: tuple[SettingReport, ...]


def settings_in_effect(url: str | None = None) -> SettingsReport:
    """The settings of connectors and of the API server. Options of `url` are in the place of what they override.

    The API server's are left out where its extra is not installed.

    Raises:
        InvalidConfigError: a setting, or the settings file, is wrong.
        InvalidURLError: the URL, or one of its options, is wrong.
    """
    file = SettingsFile.named()
    config = ConnectorConfig.load()
    overrides = {} if url is None else _overrides(RemoteURL.parse(url), config)
    found = _reports(ConnectorConfig, config.model_copy(update=overrides).shown(), "", overrides)
    try:
        from ...internal_api_server import APIServerConfig

        server = APIServerConfig.load().model_dump(mode="json")
        hidden = {name: HIDDEN if value and "token" in name else value for name, value in server.items()}
        found += _reports(APIServerConfig, hidden, API_PREFIX, {})
    except MissingExtraError:
        pass
    return SettingsReport(None if file is None else file.path, tuple(found))


def _reports(
    model: type[Settings], shown: Mapping[str, Any], prefix: str, overrides: Mapping[str, Any]
) -> list[SettingReport]:
    origins = model.origins()
    return [
        SettingReport(
            f"{prefix}{name}", written(field, shown[name]), Origin("URL") if name in overrides else origins[name]
        )
        for name, field in model.model_fields.items()
    ]


def _overrides(url: RemoteURL, config: ConnectorConfig) -> dict[str, Any]:
    """What the options of a URL, and of those inside it, put in the place of settings. The outer one wins."""
    try:
        adapter = default_registry.find(url)
    except UnknownSchemeError:  # a plug-in of the configuration may answer; its options override nothing
        return {}
    found: dict[str, Any] = {}
    for inner in reversed(adapter.wrapped_urls(url, config)):
        found |= _overrides(inner, config)
    options = adapter.parse_options(url)
    return found if options is None else found | options.overrides()
