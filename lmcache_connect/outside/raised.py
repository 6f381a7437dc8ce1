"""`contained`: what other people's code raises reaches us as an `Exception`, or as a `KeyboardInterrupt`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from copy import copy
from typing import Final

from ..errors import ConnectorFailureError
from ..known_secrets import clean_foreign

_NOT_HANDED_ON: Final = (StopIteration, StopAsyncIteration, CancelledError)
"""Of `Exception`, but a future or a coroutine makes something else of them: a `RuntimeError`, or a cancellation."""


def contain(error: BaseException, name: str, what: str) -> BaseException:
    """The error to raise in the place of `error`, which other people's code has raised.

    An `Exception` is returned as it is, unless no future can hand it on. So is `KeyboardInterrupt`, which is the
    operator's. Anything else would end the event loop or the process, or be taken for
    a cancellation of the caller: it becomes a `ConnectorFailureError`.
    """
    if isinstance(error, KeyboardInterrupt):
        return error
    if isinstance(error, Exception) and not isinstance(error, _NOT_HANDED_ON):
        return error
    made = ConnectorFailureError(name, f"{what} raised {described(error)}")
    made.__cause__ = error.with_traceback(None)
    return made


@contextmanager
def contained(name: str, what: str) -> Iterator[None]:
    """Runs a block that touches an object of other people's, such as `bool(found)`, without an await.

    `name` is the store's or the plug-in's, and `what` is what is done, such as `Theirs.get`: both are for messages.

    Raises:
        ConnectorFailureError: in the place of anything but an `Exception` or a `KeyboardInterrupt`.
        What else the block raises.
    """
    try:
        yield
    except BaseException as error:
        made = contain(error, name, what)
        if made is error:
            raise
        raise made from made.__cause__


def own_copy(error: BaseException) -> BaseException:
    """The error to raise in a call, of one that other calls are told as well, or that outlives them.

    An error keeps the frames through which it was raised, and so the buffers of calls that have ended. Where it cannot
    be copied, which those of this package can, it is returned itself.
    """
    try:
        made = copy(error)
    except Exception:
        return error
    if type(made) is not type(error):
        return error
    made.__dict__.update(error.__dict__)
    made.__cause__ = error.__cause__
    return made.with_traceback(None)


def described(error: BaseException) -> str:
    """The class and the text of an error, without secrets. Never raises, whatever the error's own methods do."""
    try:
        if isinstance(error, SystemExit):
            return f"SystemExit({clean_foreign(repr(error.code))})"
        text = clean_foreign(str(error))
    except BaseException:  # their __str__ may raise, too
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
