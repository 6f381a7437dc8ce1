"""LMCache's import names, on request: which there are, where each is found, and their coming and going."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from ..errors import LMCacheInstalledError

ROOT: Final = "lmcache"

_HERE: Final = "lmcache_connect.compat"
_CORE: Final = "lmcache_connect"


def _all_of(module: str, *names: str) -> dict[str, str]:
    return {name: f"{module}:{name}" for name in names}


_CONNECTOR: Final = _all_of(f"{_HERE}.shim.connector", "NotAudit", "RemoteConnector")
_FUNCTIONS: Final = f"{_HERE}.shim.functions"

NAMES: Final[dict[str, dict[str, str]]] = {
    ROOT: {"__version__": f"{_FUNCTIONS}:VERSION"},
    f"{ROOT}.logging": _all_of(_FUNCTIONS, "init_logger"),
    f"{ROOT}.config": {"LMCacheEngineMetadata": f"{_HERE}.shim.metadata:LMCacheMetadata"},
    f"{ROOT}.utils": {
        "CacheEngineKey": f"{_CORE}.keys:CacheEngineKey",
        "LayerCacheEngineKey": f"{_CORE}.keys:LayerCacheEngineKey",
        "parse_cache_key": f"{_CORE}.keys:parse_key",
        **_all_of(
            _FUNCTIONS,
            "VERSION",
            "_lmcache_nvtx_annotate",
            "cdiv",
            "get_size_bytes",
            "get_version",
            "lmcache_deprecate",
            "round_down",
            "round_up",
            "thread_safe",
        ),
        **_all_of(f"{_HERE}.shim.torch_tables", "STR_DTYPE_TO_TORCH_DTYPE", "TORCH_DTYPE_TO_STR_DTYPE"),
    },
    f"{ROOT}.integration": {},
    f"{ROOT}.integration.vllm": {},
    f"{ROOT}.integration.vllm.utils": _all_of(_FUNCTIONS, "get_size_bytes"),
    f"{ROOT}.v1": {},
    f"{ROOT}.v1.config": _all_of(f"{_HERE}.shim.config", "LMCacheEngineConfig"),
    f"{ROOT}.v1.metadata": _all_of(f"{_HERE}.shim.metadata", "LMCacheMetadata"),
    f"{ROOT}.v1.memory_management": {
        "MemoryFormat": f"{_CORE}.metadata:MemoryFormat",
        "MemoryObj": f"{_CORE}.memory:MemoryObj",
        **_all_of(f"{_HERE}.shim.memory", "BytesBufferMemoryObj", "MemoryObjMetadata", "TensorMemoryObj"),
        "MemoryAllocatorInterface": f"{_HERE}.shim.backend:LocalCPUBackend",
    },
    f"{ROOT}.v1.protocol": {
        **_all_of(
            f"{_HERE}.shim.protocol",
            "ClientCommand",
            "RemoteMetadata",
            "ServerReturnCode",
            "get_remote_metadata_bytes",
            "init_remote_metadata_info",
            "pad_shape_to_4d",
            "strip_shape_padding",
        ),
        **_all_of(f"{_HERE}.shim.torch_tables", "DTYPE_TO_INT", "INT_TO_DTYPE"),
    },
    f"{ROOT}.v1.storage_backend": {},
    f"{ROOT}.v1.storage_backend.local_cpu_backend": _all_of(f"{_HERE}.shim.backend", "LocalCPUBackend"),
    f"{ROOT}.v1.storage_backend.connector": {
        **_CONNECTOR,
        **_all_of(
            f"{_HERE}.shim.adapter",
            "ConnectorAdapter",
            "ConnectorContext",
            "ConnectorManager",
            "CreateConnector",
            "ParsedRemoteURL",
            "extract_plugin_type",
            "parse_remote_url",
        ),
    },
    f"{ROOT}.v1.storage_backend.connector.base_connector": _CONNECTOR,
}
"""For each module its names, and where each comes from when it is asked for, as `module:name`."""


class _Loader(Loader):
    """Makes a module whose names are resolved when they are asked for: only some of them need torch."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        names = NAMES[module.__name__]

        def get(name: str) -> Any:
            if (target := names.get(name)) is None:
                known = ", ".join(sorted(names)) or "none"
                raise AttributeError(f"lmcache_connect.compat has no {module.__name__}.{name}; it has {known}")
            source, _, attribute = target.partition(":")
            value = getattr(importlib.import_module(source), attribute)
            setattr(module, name, value)
            return value

        module.__doc__ = f"What lmcache_connect.compat provides in the place of {module.__name__}."
        # What has a leading underscore is imported by its name alone, as from LMCache itself.
        vars(module).update(__getattr__=get, __dir__=lambda: sorted(names), __all__=_starred(names))


def _starred(names: dict[str, str]) -> list[str]:
    return [name for name in names if not name.startswith("_")]


class _Finder(MetaPathFinder):
    """Finds the modules of `NAMES`, and says of any other of LMCache's that it is not provided."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in NAMES:
            return ModuleSpec(fullname, _Loader(), origin=_HERE, is_package=True)
        if fullname.startswith(f"{ROOT}."):
            raise ModuleNotFoundError(
                f"lmcache_connect.compat provides no {fullname}; it provides {', '.join(NAMES)}; "
                "for anything else install LMCache itself (pip install lmcache)",
                name=fullname,
            )
        return None


_lock = threading.RLock()
_finder: Final = _Finder()


def install() -> None:
    """From now on `import lmcache...` gives this toolkit's types, in the whole process. Idempotent.

    Raises:
        LMCacheInstalledError: LMCache itself is installed; it is never shadowed.
    """
    with _lock:
        if _finder in sys.meta_path:
            return
        if is_lmcache_there():
            raise LMCacheInstalledError(_installed_version())
        sys.meta_path.insert(0, _finder)
        importlib.invalidate_caches()


def uninstall() -> None:
    """Takes the names away again; classes that were imported meanwhile go on working. Idempotent."""
    with _lock:
        if _finder not in sys.meta_path:
            return
        sys.meta_path.remove(_finder)
        for name in NAMES:
            sys.modules.pop(name, None)


def is_installed() -> bool:
    """Whether `install()` is in force."""
    return _finder in sys.meta_path


@contextmanager
def installed() -> Iterator[None]:
    """`install()` for a `with` block, and `uninstall()` behind it unless the names were there before.

    Raises:
        LMCacheInstalledError: as `install()` does.
    """
    was_installed = is_installed()
    install()
    try:
        yield
    finally:
        if not was_installed:
            uninstall()


def is_lmcache_there() -> bool:
    """Whether LMCache itself is installed, or has been imported. Imports nothing."""
    if is_installed():
        return False
    if ROOT in sys.modules:
        return True
    try:
        spec = importlib.util.find_spec(ROOT)
    except (ImportError, ValueError):  # another finder's trouble is no LMCache
        return False
    return spec is not None and spec.origin is not None  # a folder of that name has none


def _installed_version() -> str:
    try:
        return importlib.metadata.version(ROOT)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(ROOT), "__version__", ""))
