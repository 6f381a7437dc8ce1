"""`lmcache-connect schemes`: the known URL schemes, their adapters, and whether they load."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import LMCacheConnectError
from ...manager import AdapterRegistry, default_registry


@dataclass(frozen=True)
class SchemeReport:
    """One scheme, or a family such as `fault+<scheme>`.

    `error` says why the adapter does not load, and is None where it does. `options` are the names that the URL's query
    may contain, and None where the adapter accepts any.
    """

    scheme: str
    adapter: str
    error: str | None = None
    options: Sequence[str] | None = None

    @property
    def loads(self) -> bool:
        """Whether the adapter can be imported and created."""
        return self.error is None


def list_schemes(registry: AdapterRegistry = default_registry) -> list[SchemeReport]:
    """Every scheme that the registry knows, sorted. Imports each adapter, but opens no connection. Does not raise."""
    # What a plug-in prints during its import must not end up in a JSON document on stdout.
    with contextlib.redirect_stdout(sys.stderr):
        return [_report(registry, scheme) for scheme in registry.schemes()]


def _report(registry: AdapterRegistry, scheme: str) -> SchemeReport:
    described = ""
    try:
        described = registry.describe(scheme) or ""
        adapter = registry.load(scheme)
    except LMCacheConnectError as error:
        return SchemeReport(scheme, described, str(error))
    model = None if adapter is None else adapter.options
    names = None if model is None else model.option_names()
    return SchemeReport(scheme, described, None, names)
