"""`translated`: turns errors of the operating system into errors of the toolkit, in one place."""

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
    """Raises a `StoreError` for any `OSError` in the block. Errors that are not listed can be retried."""
    try:
        yield
    except LMCacheConnectError:
        raise  # some of them are OSErrors as well
    except OSError as error:
        kind = _KINDS.get(error.errno, StoreUnavailableError)
        raise kind(store, f"{error.strerror or error} ({type(error).__name__})") from error
