"""Connectors that were written for LMCache, with LMCache installed. Imported only then."""

from __future__ import annotations

from ...errors import MissingExtraError

# Here, because every module of this package needs both.
try:
    import lmcache as _lmcache  # noqa: F401
    import torch as _torch  # noqa: F401
except ImportError as missing:
    raise MissingExtraError("speaking to LMCache's own classes", missing.name or "lmcache", "torch") from missing
