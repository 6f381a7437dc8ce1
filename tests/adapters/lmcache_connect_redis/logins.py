"""A module that `?credentials=` may name. Tests say what its callables answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

MODULE = __name__

answers: dict[str, Callable[[], Any]] = {}


def login() -> Any:
    """Answers what a test has put into `answers`."""
    return answers["login"]()


async def login_async() -> Any:
    """The same, awaited."""
    found = answers["login_async"]()
    return await found if isinstance(found, Awaitable) else found


NO_CALLABLE = 3
