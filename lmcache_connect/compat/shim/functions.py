"""LMCache's small functions, as connectors use them."""

from __future__ import annotations

import functools
import logging
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from ..._version import __version__
from ...dtypes import dtype_of

CallableT = TypeVar("CallableT", bound=Callable[..., Any])

VERSION: Final = f"0.5.6+connect.{__version__}"
"""The version of LMCache that these names were taken from, and of the toolkit behind them."""

_lock = threading.Lock()


def get_version() -> str:
    """Version and commit, of which there is none."""
    return f"{VERSION}-NA"


def init_logger(name: str) -> logging.Logger:
    """The logger of this name. Unlike LMCache's it keeps to the application's handlers and level."""
    return logging.getLogger(name)


def get_size_bytes(shapes: Sequence[Iterable[int]], kv_dtypes: Sequence[Any]) -> int:
    """Bytes of as many tensors."""
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
    """The function itself: there is no profiler to annotate it for."""
    return func


def thread_safe(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function under a lock that it shares with every other one so decorated."""

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
