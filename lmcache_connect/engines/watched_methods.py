"""`WatchedMethods`: methods of an engine that free memory, and that wait until it is let go of here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, Protocol

_GUARDS: Final = "_lmcache_connect_guards"


class Guard(Protocol):
    """What uses memory of an engine's."""

    def let_go(self) -> bool:
        """Blocks until nothing touches the memory, now or later. Returns whether that is so."""
        ...


class WatchedMethods:
    """The methods that one guard watches. Several guards may watch one method."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._watching: list[list[Guard]] = []

    def watch(self, owner: Any, method: str) -> None:
        """Has `owner.method()` free nothing before the guard has let go.

        Where a guard cannot let go, the engine's own method is not called, and the memory stays mapped until the
        process ends.
        """
        original = getattr(owner, method)
        guards: list[Guard] | None = getattr(original, _GUARDS, None)
        if guards is None:
            guards = []
            setattr(owner, method, _guarded(original, guards))
        guards.append(self._guard)
        self._watching.append(guards)

    def end(self) -> None:
        """Watches nothing any more. Idempotent."""
        while self._watching:
            self._watching.pop().remove(self._guard)


def _guarded(original: Callable[..., Any], guards: list[Guard]) -> Callable[..., Any]:
    @functools.wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        kept = [guard for guard in list(guards) if not guard.let_go()]
        return None if kept else original(*args, **kwargs)

    setattr(guarded, _GUARDS, guards)
    return guarded
