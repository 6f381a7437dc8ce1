"""What the manager uses of `lmcache_connect.compat`, which stands above it: imported on first use."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

from ..contract import ConnectorContext
from ..foreign import Dialect

_COMPAT: Final = "lmcache_connect.compat"


def install_lmcache_names() -> None:
    """Makes `import lmcache...` give this toolkit's types, in the whole process; see `lmcache_connect.compat.install`.

    Raises:
        LMCacheInstalledError: LMCache itself is installed.
    """
    import_module(_COMPAT).install()


def find_dialect(kind: type[Any], context: ConnectorContext) -> Dialect | None:
    """LMCache's dialect, for a class that was written for LMCache; None for any other class.

    Imports nothing where the process has imported neither LMCache nor its stand-in: no such class can exist then.
    """
    if "lmcache" not in sys.modules and _COMPAT not in sys.modules:
        return None
    found: Dialect | None = import_module(_COMPAT).find_dialect(kind, context)
    return found
