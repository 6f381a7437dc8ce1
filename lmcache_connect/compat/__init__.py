"""Guests: connectors and adapters that were written for LMCache and run here.

`real` speaks to them where LMCache is installed, with instances of LMCache's own classes. `shim` does so where it is
not: `install()` makes LMCache's import names give the classes in `shim`, so that a module that begins with
`from lmcache.v1...` can be imported. A guest's object has an `original`, which is Connect's own object behind it.

Importing this package imports neither torch nor LMCache. Imported by `engines`, to describe LMCache's
chunks, and by `manager`, by name and on first use, to install the names and to find the dialect of a guest.
"""

from __future__ import annotations

from .dialects import find_dialect
from .import_names import install, installed, is_installed, uninstall
from .shapes import chunk_metadata_of

__all__ = ["chunk_metadata_of", "find_dialect", "install", "installed", "is_installed", "uninstall"]
