"""LMCache's small functions that connectors use, in their place."""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from ..._version import __version__
from ...dtypes import dtype_of
from ...process import ModuleLock

CallableT = TypeVar("CallableT", bound=Callable[..., Any])

VERSION: Final = f"0.5.6+connect.{__version__}"
"""The version of LMCache that these names were taken from, and the version of LMCache Connect."""

_lock = ModuleLock()


def get_version() -> str:
    """Version and commit. The commit is always `NA`."""
    return f"{VERSION}-NA"


def init_logger(name: str) -> logging.Logger:
    """The logger of this name. Unlike LMCache's it uses the application's handlers and level."""
    return logging.getLogger(name)


def get_size_bytes(shapes: Sequence[Iterable[int]], kv_dtypes: Sequence[Any]) -> int:
    """Bytes of all tensors with these shapes and dtypes."""
    return sum(math.prod(shape) * dtype_of(dtype).itemsize for shape, dtype in zip(shapes, kv_dtypes, strict=True))


def cdiv(a: int, b: int) -> int:
    """`a / b`, rounded up."""
    return -(a // -b)


def round_down(x: int, y: int) -> int:
    """The largest multiple of `y` up to `x`."""
    return x // y * y


def round_up(x: int, y: int) -> int:
    """The smallest multiple of `y` from `x`."""
    return cdiv(x, y) * y


def _lmcache_nvtx_annotate(func: CallableT, domain: str = "lmcache") -> CallableT:
    """Returns the function unchanged: LMCache annotates it for a profiler."""
    return func


def thread_safe(func: Callable[..., Any]) -> Callable[..., Any]:
    """Makes calls of the function hold a lock, which all functions with this decorator share."""

    @functools.wraps(func)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with _lock:
            return func(*args, **kwargs)

    return locked


def lmcache_deprecate(reason: str) -> Callable[[CallableT], CallableT]:
    """A decorator whose function warns that it is deprecated, with the reason."""

    def decorate(func: CallableT) -> CallableT:
        @functools.wraps(func)
        def warned(*args: Any, **kwargs: Any) -> Any:
            warnings.warn(f"{func.__qualname__} is deprecated: {reason}", DeprecationWarning, stacklevel=2)
            return func(*args, **kwargs)

        return warned  # type: ignore[return-value]

    return decorate
