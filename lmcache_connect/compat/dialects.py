"""Which dialect a class of another making speaks."""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any, Final

from ..contract import ConnectorContext
from ..foreign import Dialect
from .import_names import ROOT, is_installed
from .shim.dialect import ShimDialect

_SHIM: Final = f"{__package__}.shim."


def find_dialect(kind: type[Any], context: ConnectorContext) -> Dialect | None:
    """LMCache's, where a class was written for it: its own or the one in its place. None for any other class.

    A class counts as written for LMCache when it derives from one of LMCache's, or its module uses one.
    """
    if any(base.__module__.startswith(_SHIM) for base in kind.__mro__):
        return ShimDialect(context)  # also after uninstall()
    if is_installed():
        return ShimDialect(context)  # a superset of the toolkit's own types: right for every class
    if ROOT in sys.modules and _uses_lmcache(kind):
        from .real.dialect import RealDialect

        return RealDialect(context)
    return None


def _uses_lmcache(kind: type[Any]) -> bool:
    own = vars(sys.modules.get(kind.__module__, object)).values()
    # Not isinstance(), which asks an object for its class: lazy modules take that for use.
    used = [*kind.__mro__, *(value for value in own if issubclass(type(value), type | FunctionType))]
    return any(str(getattr(item, "__module__", "")).partition(".")[0] == ROOT for item in used)
