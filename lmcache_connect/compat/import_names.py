"""`install()` and `uninstall()`: LMCache's import names, where LMCache is not installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from ..errors import LMCacheInstalledError
from ..process import ModuleLock
from .shim.names import NAMES, ROOT

_HERE: Final = "lmcache_connect.compat"


class _Loader(Loader):
    """Makes a module whose names are imported on first use, since only some of them need torch."""

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
        # `import *` brings no name with a leading underscore, as with LMCache itself.
        starred = [name for name in names if not name.startswith("_")]
        vars(module).update(__getattr__=get, __dir__=lambda: sorted(names), __all__=starred)


class _Finder(MetaPathFinder):
    """Finds the modules of `NAMES`. Raises `ModuleNotFoundError` for any other module of LMCache's."""

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


_lock = ModuleLock()
_finder: Final = _Finder()


def install() -> None:
    """Makes `import lmcache...` give the classes in `compat.shim`, in the whole process. Idempotent.

    Raises:
        LMCacheInstalledError: LMCache itself is installed; it is never shadowed.
    """
    with _lock:
        if _finder in sys.meta_path:
            return
        if has_real_lmcache():
            raise LMCacheInstalledError(_installed_version())
        sys.meta_path.insert(0, _finder)
        importlib.invalidate_caches()


def uninstall() -> None:
    """Undoes `install()`. Classes that were imported meanwhile go on working. Idempotent."""
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
    """`install()` for a `with` block, then `uninstall()`, unless the names were installed before.

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


def has_real_lmcache() -> bool:
    """Whether LMCache itself is installed or has been imported. Imports nothing."""
    if is_installed():
        return False
    if ROOT in sys.modules:
        return True
    try:
        spec = importlib.util.find_spec(ROOT)
    except (ImportError, ValueError):  # another finder failed, which says nothing of LMCache
        return False
    return spec is not None and spec.origin is not None  # a folder of that name has no origin


def _installed_version() -> str:
    try:
        return importlib.metadata.version(ROOT)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(ROOT), "__version__", ""))
