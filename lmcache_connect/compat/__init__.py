"""Connectors that were written for LMCache, with LMCache and without it.

`install()` makes LMCache's import names available where LMCache is not installed, so that a connector or an adapter
that begins with `from lmcache.v1...` can be imported: by `external://`, as a plug-in, or by an import of your own.
Where LMCache is installed nothing needs to be asked for. This package itself imports neither torch nor LMCache.
"""

from __future__ import annotations

from .import_names import install, installed, is_installed, uninstall
from .shapes import described

__all__ = ["described", "install", "installed", "is_installed", "uninstall"]
