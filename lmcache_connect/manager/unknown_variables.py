"""Warns of environment variables that look like settings and that no setting is read from, as one misspelt."""

from __future__ import annotations

import logging
from typing import Final

from ..config import Settings
from ..observability import event

_OTHERS: Final = "LMCACHE_CONNECT_API_"
"""Variables of the internal API server. Its settings tell of them."""

_TESTS: Final = "LMCACHE_CONNECT_TEST_REDIS"
"""What the pytest plug-in reads. Its tests have managers, too."""

_told: Final[set[str]] = set()


def tell_unknown_variables(settings: type[Settings]) -> None:
    """Logs a warning for each variable that begins as those of `settings` do and is not read. Once a process for each.

    The warning has the variable's name and the most similar one that is read, and never a value.
    """
    is_others = str(settings.model_config.get("env_prefix")) == _OTHERS
    for name, similar in settings.unknown_variables().items():
        if name in _told or name == _TESTS or (name.upper().startswith(_OTHERS) and not is_others):
            continue
        _told.add(name)
        event(logging.WARNING, "unknown_variable", variable=name, did_you_mean=similar or "nothing similar is read")
