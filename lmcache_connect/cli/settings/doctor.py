"""`lmcache-connect doctor`: looks at what is installed and set, and says what is wrong. Connects to nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..._version import __version__
from ...config import ConnectorConfig, SettingsFile
from ...errors import AdapterLoadError, InvalidConfigError, LMCacheConnectError, MissingExtraError
from ...manager import ConnectorManager, variables_not_read
from ...memory import LocalCPUBackend
from ...redaction import redact, secrets_of_setting
from ...url import RemoteURL
from ..engines.engines import EngineReport, Facts, describe_engines
from ..schemes.plugins import PluginReport, list_plugins
from .in_effect import SettingsReport, settings_in_effect
from .machine import Fact, machine_facts
from .packages import PackageReport, list_packages

_ARENA_BYTES = 4096


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and what to do."""

    what: str
    advice: str


@dataclass(frozen=True)
class DoctorReport:
    """All that was looked at. `store` is a redacted URL, and None where none is set.

    `settings` are None where they cannot be read; a problem says why.
    """

    version: str
    packages: tuple[PackageReport, ...]
    machine: tuple[Fact, ...]
    engines: tuple[EngineReport, ...]
    settings: SettingsReport | None
    store: str | None
    plugins: tuple[PluginReport, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


async def examine(url: str | None = None) -> DoctorReport:
    """Looks at this environment, and at the URL of a store or, with None, the one that is set. Connects to nothing.

    What is wrong is a problem of the report, and not an error.
    """
    problems: list[Problem] = []
    packages = list_packages()
    problems += _of_packages(packages)
    settings: SettingsReport | None = None
    config: ConnectorConfig | None = None
    try:
        config = ConnectorConfig.load()
        configured = None if config.url is None else config.url.get_secret_value()
        url = configured if url is None else url
        settings = settings_in_effect()
    except LMCacheConnectError as error:
        problems.append(Problem(str(error), _advice(error)))
    problems += _of_file()
    problems += _of_variables()
    store = None
    if url is not None:
        store = redact(url)
        if config is not None:
            problems += await _of_store(url, config)
            try:
                settings = settings_in_effect(url)
            except LMCacheConnectError:  # the store's problem says why
                pass
    plugins = [] if config is None else list_plugins(config)
    problems += [
        Problem(f"the plug-in {plugin.url} does not load: {plugin.error}", "install it, or take it out of the settings")
        for plugin in plugins
        if plugin.error is not None
    ]
    machine = machine_facts(_ARENA_BYTES if config is None else config.max_local_cpu_bytes)
    problems += [Problem(f"{fact.name}: {fact.value}", fact.advice) for fact in machine if fact.advice]
    engines = (await describe_engines(None, Facts())).engines
    return DoctorReport(
        __version__, tuple(packages), tuple(machine), engines, settings, store, tuple(plugins), tuple(problems)
    )


def _of_packages(packages: list[PackageReport]) -> list[Problem]:
    found: list[Problem] = []
    for package in packages:
        extra = f"[{package.extra}]" if package.extra else ""
        install = f"pip install 'lmcache-connect{extra}'"
        if package.version is not None and not package.fits:
            found.append(Problem(f"{package.package} {package.version} is not {package.wanted}", install))
        elif package.version is None and not package.extra:
            found.append(Problem(f"{package.package} is not installed", install))
    return found


def _of_variables() -> list[Problem]:
    unknown = variables_not_read(ConnectorConfig)
    try:
        from ...internal_api_server import APIServerConfig

        unknown |= variables_not_read(APIServerConfig)
    except MissingExtraError:
        pass
    return [
        Problem(f"no setting is read from the variable {name}", f"did you mean {similar}?" if similar else "remove it")
        for name, similar in unknown.items()
    ]


def _of_file() -> list[Problem]:
    """What is wrong with who may read the settings file, where it can be read."""
    try:
        file = SettingsFile.named()
    except InvalidConfigError:  # the settings' problem says why
        return []
    if file is None or not any(secrets_of_setting("", file.contents)):
        return []
    mode = stat.S_IMODE(Path(file.path).expanduser().stat().st_mode)
    if not mode & 0o066:
        return []
    return [
        Problem(
            f"the settings file {file.path} holds a secret, and others may read or change it",
            f"chmod {mode & 0o700:03o} {file.path}",
        )
    ]


async def _of_store(url: str, config: ConnectorConfig) -> list[Problem]:
    """What is wrong with a URL, as far as can be said without a connection."""
    try:
        parsed = RemoteURL.parse(url)
        with LocalCPUBackend(_ARENA_BYTES) as backend:
            async with ConnectorManager(parsed, None, backend, config) as manager:
                manager.create_connector()
    except (LMCacheConnectError, OSError) as error:
        return [Problem(str(error), _advice(error))]
    return [*_of_references(parsed)]


def _of_references(url: RemoteURL) -> Iterator[Problem]:
    """The files that options of the URL name, and that are not there. They are read by the first connection."""
    for name, value in url.query.items():
        place = value.get_secret_value()
        if name.endswith("_file") and not os.access(place, os.R_OK):
            yield Problem(
                f"the URL's option {name} names the file {place}, which cannot be read", "correct the URL, or the file"
            )


def _advice(error: Exception) -> str:
    notes = getattr(error, "__notes__", ())
    if notes:
        return " ".join(notes)
    if isinstance(error, InvalidConfigError):
        place = os.environ.get("LMCACHE_CONNECT_CONFIG") or "the environment"
        return f"correct it in {place}; lmcache-connect config show lists all settings"
    if isinstance(error, AdapterLoadError | MissingExtraError):
        return "install what the message names"
    return "correct the URL; lmcache-connect schemes SCHEME lists what one may say"
