"""`lmcache-connect engines`: which engines are installed, and what to write in their configuration for a store."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

from ...config import ConnectorConfig
from ...errors import InvalidArgumentError
from ...manager import ConnectorManager, default_registry
from ...memory import LocalCPUBackend
from ...redaction import secrets_of_setting
from ...url import RemoteURL

PASSWORD_VARIABLE: Final = "STORE_PASSWORD"  # noqa: S105  # a variable's name
"""The environment variable that stands in the place of a password."""

_ARENA_BYTES: Final = 4096


@dataclass(frozen=True)
class EngineText:
    """One way to configure an engine. `text` is a command line to paste, with the store and without a secret."""

    way: str
    text: str


@dataclass(frozen=True)
class EngineReport:
    """One engine. `version` is that of the package in this environment, and None where it is not installed."""

    engine: str
    package: str
    version: str | None
    texts: tuple[EngineText, ...] = ()


@dataclass(frozen=True)
class EnginesReport:
    """All engines. `store` is the URL as it stands in the texts; None where none was given.

    `notes` say what to do beside pasting.
    """

    store: str | None
    engines: tuple[EngineReport, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What an engine does not tell of its bytes, where the operator has. None: not told.

    Raises:
        InvalidArgumentError: one is empty. No engine would start with it.
    """

    revision: str | None = None
    dtype: str | None = None
    kv_layout: str | None = None
    tenant: str | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value == "":
                option = f"--{name.replace('_', '-')}"
                raise InvalidArgumentError(option, "it is empty; expected a name, or leave the option out")

    def of(self, *names: str) -> dict[str, str]:
        """Those with these names that were told."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


async def describe_engines(url: str | None, facts: Facts) -> EnginesReport:
    """Finds the installed engines, and writes their configuration for the store at `url`. Connects to nothing.

    Raises:
        LMCacheConnectError: the URL is wrong, or nothing can serve it.
    """
    if url is None:
        return EnginesReport(None, _engines({}))
    parsed = RemoteURL.parse(url)
    await _check(parsed)
    shown, notes = _without_secrets(parsed)
    shared = facts.of("revision", "tenant")
    of_lmcache = facts.of("dtype", "kv_layout", "revision", "tenant")
    params = {"url": shown, **({"identity": of_lmcache} if of_lmcache else {})}
    options = {"url": shown, **({"identity": shared} if shared else {})}
    texts = {
        "lmcache": (
            EngineText("server, native_plugin", _lmcache("native_plugin", "NativeClient", params)),
            EngineText("server, plugin", _lmcache("plugin", "L2Adapter", params)),
        ),
        "vllm": (EngineText("secondary tier", _vllm(options)),),
        "sglang": (EngineText("HiCache storage", _sglang(options)),),
    }
    missing = [name for name in ("dtype", "kv_layout", "revision") if name not in of_lmcache]
    if missing:
        wanted = " ".join(f"--{name.replace('_', '-')} NAME" for name in missing)
        notes.append(
            f"engines that differ in {', '.join(missing)} share keys where the engine does not tell it: {wanted}"
        )
    notes.append("PYTHONHASHSEED must be the same number in every engine that shares the store")
    return EnginesReport(shown, _engines(texts), tuple(notes))


async def _check(url: RemoteURL) -> None:
    """Makes a connector, which says what is wrong. Files and variables that the engine will have need not be here."""
    place, _, query = url.raw.get_secret_value().partition("?")
    elsewhere = {name for name in _option_names(url) if name.endswith(("_file", "_env"))}
    fields = [field for field in query.split("&") if field and unquote_plus(field.partition("=")[0]) not in elsewhere]
    checked = f"{place}?{'&'.join(fields)}" if fields else place
    with LocalCPUBackend(_ARENA_BYTES) as backend:
        async with ConnectorManager(checked, None, backend, ConnectorConfig.load()) as manager:
            manager.create_connector()


def _engines(texts: Mapping[str, tuple[EngineText, ...]]) -> tuple[EngineReport, ...]:
    names = {"LMCache": "lmcache", "vLLM": "vllm", "SGLang": "sglang"}
    return tuple(
        EngineReport(engine, package, _version(package), texts.get(package, ())) for engine, package in names.items()
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lmcache(kind: str, name: str, params: Mapping[str, Any]) -> str:
    adapter = {
        "type": kind,
        "module_path": "lmcache_connect.engines.lmcache",
        "class_name": name,
        "adapter_params": params,
    }
    return f"lmcache server --l1-size-gb 20 --eviction-policy LRU --l2-adapter {_quoted(adapter)}"


def _vllm(options: Mapping[str, Any]) -> str:
    tier = {"type": "Tier", "module_path": "lmcache_connect.engines.vllm", **options}
    transfer = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "TieringOffloadingSpec",
            "cpu_bytes_to_use": 20 << 30,
            "secondary_tiers": [tier],
        },
    }
    return f"vllm serve MODEL --prefix-caching-hash-algo sha256_cbor --kv-transfer-config {_quoted(transfer)}"


def _sglang(options: Mapping[str, Any]) -> str:
    extra = {
        "backend_name": "connect",
        "module_path": "lmcache_connect.engines.sglang",
        "class_name": "HiCacheBackend",
        "interface_v1": 1,
        **options,
    }
    return (
        "python -m sglang.launch_server --model-path MODEL --enable-hierarchical-cache "
        f"--hicache-storage-backend dynamic --hicache-storage-backend-extra-config {_quoted(extra)}"
    )


def _quoted(value: Mapping[str, Any]) -> str:
    return shlex.quote(json.dumps(value))


def _without_secrets(url: RemoteURL) -> tuple[str, list[str]]:
    """The URL without its secrets, and what to do instead."""
    notes: list[str] = []
    place, _, query = url.raw.get_secret_value().partition("?")
    scheme, _, location = place.partition("://")
    credentials, _, hosts = location.rpartition("@")
    user = credentials.partition(":")[0]
    fields: list[str] = []
    for field in query.split("&") if query else ():
        name, _, value = field.partition("=")
        if name == "credentials":
            notes.append(
                "the option credentials is left out: name the callable there as here, and its module in the variable "
                "LMCACHE_CONNECT_ALLOWED_MODULES of the engine"
            )
        elif any(secrets_of_setting(unquote_plus(name), unquote_plus(value))):
            notes.append(
                f"the option {unquote_plus(name)} is left out, because it holds a secret: "
                "give it to the engine another way"
            )
        else:
            fields.append(field)
    if url.password is not None and url.password.get_secret_value():
        if "password_env" in _option_names(url):
            if not {"password_env", "password_file"} & url.query.keys():
                fields.append(f"password_env={PASSWORD_VARIABLE}")
                notes.append(f"set {PASSWORD_VARIABLE} to the password, in the environment of the engine")
        else:
            notes.append("the password is left out: this store takes none from the environment")
    shown = f"{scheme}://{user}{'@' if user else ''}{hosts}"
    return (f"{shown}?{'&'.join(fields)}" if fields else shown), notes


def _option_names(url: RemoteURL) -> list[str]:
    """The options of the store itself, inside its wrappers."""
    adapter = default_registry.load(url.scheme.rpartition("+")[2])
    return [] if adapter is None or adapter.options is None else adapter.options.option_names()
