"""`translated`: what the operating system raises becomes an error of the toolkit, once, where it comes in."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lmcache_connect import AuthenticationError, LMCacheConnectError, StoreError, StoreUnavailableError
from lmcache_connect.errors import ReadOnlyStoreError, StoreFullError, WrongTypeError

_KINDS: Final[dict[int | None, type[StoreError]]] = {
    errno.ENOSPC: StoreFullError,
    errno.EDQUOT: StoreFullError,
    errno.EFBIG: StoreFullError,
    errno.EROFS: ReadOnlyStoreError,
    errno.EACCES: AuthenticationError,
    errno.EPERM: AuthenticationError,
    errno.ENOTDIR: WrongTypeError,
    errno.EISDIR: WrongTypeError,
}


@contextmanager
def translated(store: str) -> Iterator[None]:
    """Raises a `StoreError` from any `OSError` of the block. What is not listed may be better a moment later."""
    try:
        yield
    except LMCacheConnectError:
        raise  # some of them are OSErrors as well
    except OSError as error:
        kind = _KINDS.get(error.errno, StoreUnavailableError)
        raise kind(store, f"{error.strerror or error} ({type(error).__name__})") from error
