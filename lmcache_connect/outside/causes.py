"""`hide_causes`: what stands behind one of our errors tells no secret."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import HiddenError, LMCacheConnectError
from ..known_secrets import clean_foreign, tells_secret


def hide_causes(error: LMCacheConnectError) -> None:
    """Puts a `HiddenError` in the place of each foreign error behind one of ours whose text repeats a secret.

    A log that shows the traceback shows these texts as well. Where none repeats a secret, nothing is changed.
    """
    for link in _chain(error):
        if not isinstance(link, LMCacheConnectError):
            continue
        cause, context = link.__cause__, link.__context__
        if cause is not None and _tells(cause):
            hidden = HiddenError(type(cause).__name__, clean_foreign(_text(cause)))
            link.__cause__ = hidden.with_traceback(cause.__traceback__)
        if context is not None and _tells(context):
            link.__context__ = None


@contextmanager
def hidden_causes() -> Iterator[None]:
    """Runs a block, and hides the causes of an error of ours that leaves it."""
    try:
        yield
    except LMCacheConnectError as error:
        hide_causes(error)
        raise


def _chain(error: BaseException) -> list[BaseException]:
    """Returns an error and all that a traceback shows with it."""
    found = [error]
    for link in found:  # grows meanwhile
        members = link.exceptions if isinstance(link, BaseExceptionGroup) else ()
        behind = (link.__cause__, link.__context__, *members)
        found += [other for other in behind if other is not None and not any(other is known for known in found)]
    return found


def _tells(error: BaseException) -> bool:
    """Returns whether an error that is not ours, or one behind it, repeats a secret."""
    if isinstance(error, LMCacheConnectError):
        return False  # it is clean, and what is behind it has a turn of its own
    return any(_repeats(link) for link in _chain(error))


def _repeats(error: BaseException) -> bool:
    try:
        texts = (str(error), repr(error), *map(str, getattr(error, "__notes__", ())))
    except BaseException:  # theirs may raise
        return True
    return any(tells_secret(text) for text in texts)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # theirs may raise
        return ""
