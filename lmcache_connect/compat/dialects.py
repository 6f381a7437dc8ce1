"""`find_dialect`: whether a class is a guest, and which dialect it speaks."""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any, Final

from ..contract import ConnectorContext
from ..foreign import Dialect
from .import_names import is_installed
from .shim.dialect import ShimDialect
from .shim.names import ROOT

_SHIM: Final = f"{__package__}.shim."


def find_dialect(kind: type[Any], context: ConnectorContext) -> Dialect | None:
    """The dialect of a guest, a class written for LMCache; None for any other class.

    A class is a guest where it derives from a class of LMCache's, or where its module uses one. With the names of
    `compat.shim` installed every class counts as a guest: their types also have everything that Connect's own have.
    """
    if any(base.__module__.startswith(_SHIM) for base in kind.__mro__):
        return ShimDialect(context)  # also after uninstall()
    if is_installed():
        return ShimDialect(context)
    if ROOT in sys.modules and _uses_lmcache(kind):
        from .real.dialect import RealDialect

        return RealDialect(context)
    return None


def _uses_lmcache(kind: type[Any]) -> bool:
    own = vars(sys.modules.get(kind.__module__, object)).values()
    # Not isinstance(), which asks an object for its class: lazy modules take that for use.
    used = [*kind.__mro__, *(value for value in own if issubclass(type(value), type | FunctionType))]
    return any(str(getattr(item, "__module__", "")).partition(".")[0] == ROOT for item in used)
