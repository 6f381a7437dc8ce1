"""Environment variables that look like settings and that no setting is read from, as one misspelt."""

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


def variables_not_read(settings: type[Settings]) -> dict[str, str]:
    """Variables that begin as those of `settings` do, and that nothing of this distribution reads.

    Returns the name of each, with the most similar name of a variable that is read; "" where none is similar.
    """
    is_others = str(settings.model_config.get("env_prefix")) == _OTHERS
    return {
        name: similar
        for name, similar in settings.unknown_variables().items()
        if name != _TESTS and (is_others or not name.upper().startswith(_OTHERS))
    }


def tell_unknown_variables(settings: type[Settings]) -> None:
    """Logs a warning for each variable that begins as those of `settings` do and is not read. Once a process for each.

    The warning has the variable's name and the most similar one that is read, and never a value.
    """
    for name, similar in variables_not_read(settings).items():
        if name not in _told:
            _told.add(name)
            event(logging.WARNING, "unknown_variable", variable=name, did_you_mean=similar or "nothing similar is read")
