"""`import_callable`: the callable that `?credentials=module:callable` names, from a module that the operator allows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lmcache_connect import ConnectorConfig, RemoteURL
from lmcache_connect.errors import InvalidOptionError, PluginError
from lmcache_connect.foreign import PluginClass

from ..options import CALLABLE


def import_callable(url: RemoteURL, path: str, settings: ConnectorConfig | None) -> Callable[[], Any]:
    """Returns what a path such as `module:callable` names. Blocks for `import_timeout` at most.

    A URL may come from elsewhere, so it is not enough that it names the module: `allowed_modules` has to, too. Unlike
    for plug-ins, no `allowed_modules` means none.

    Raises:
        InvalidOptionError: the module is not allowed, or cannot be imported in time, or has no such callable.
    """
    module, _, name = path.partition(":")
    allowed = settings.allowed_modules if settings is not None else None
    if settings is None or allowed is None or module not in allowed:
        raise _wrong(
            url, f"a module that the setting allowed_modules names ({', '.join(allowed or ()) or 'none'}), not {module}"
        )
    try:
        found = PluginClass.at(module, name).load_any(settings.import_timeout, allowed)
        is_callable = callable(found)
    except PluginError as error:
        cause = error.__cause__
        why = error.reason if cause is None else f"that raised {type(cause).__name__}"
        if isinstance(cause, ModuleNotFoundError):
            why += f" for {cause.name}"
        raise _wrong(url, f"{name} in {module}, which cannot be imported: {why}") from cause
    if not is_callable:
        raise _wrong(url, f"{name} in {module} to be callable, and it is a {type(found).__name__}")
    return found  # type: ignore[no-any-return]  # looked at above


def prepare_callable(url: RemoteURL, settings: ConnectorConfig) -> None:
    """Imports the module in advance, where the URL names a callable. Raises as `import_callable` does."""
    path = url.query.get("credentials")
    if path is not None and re.match(CALLABLE, path.get_secret_value()):
        import_callable(url, path.get_secret_value(), settings)


def _wrong(url: RemoteURL, expected: str) -> InvalidOptionError:
    return InvalidOptionError(url.redacted(), "credentials", "***", expected)
