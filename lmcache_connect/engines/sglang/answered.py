"""`answered`: a method that answers in any case, because an exception would end a thread of HiCache's."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from ...observability import RepeatedEvent


class Telling(Protocol):
    """What has such methods."""

    @property
    def refused(self) -> RepeatedEvent:
        """Tells what was not done."""
        ...


P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Telling)


def answered(
    otherwise: Callable[..., T],
) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
    """Has a method return `otherwise(...)` of its arguments where it would raise. The log tells why."""

    def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
        @functools.wraps(method)
        def answering(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                facts: dict[str, Any] = {
                    "call": method.__name__.strip("_"),
                    "kind": type(error).__name__,
                    "error": error,
                }
                self.refused.tell(logging.ERROR, **facts)
                return otherwise(*args, **kwargs)

        return answering

    return decorate
