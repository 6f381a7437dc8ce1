"""What the URL of one scheme may say."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass

from ...config import meant
from ...errors import InvalidArgumentError
from ...manager import AdapterRegistry, default_registry
from ..frame.fields import Field, fields_of


@dataclass(frozen=True)
class OptionsReport:
    """The options of one scheme. `shape` is what its URLs look like; "" where the adapter does not say.

    `options` are None where the adapter takes any option.
    """

    scheme: str
    adapter: str
    shape: str
    options: tuple[Field, ...] | None


def describe_options(name: str, registry: AdapterRegistry = default_registry) -> list[OptionsReport]:
    """The options of a scheme, which may be given as a URL, and of those inside it, as in `hot+redis`.

    Opens no connection.

    Raises:
        InvalidArgumentError: nothing answers for the scheme. Of a URL, the scheme alone is shown.
        LMCacheConnectError: its adapter cannot be imported.
    """
    scheme = name.partition("://")[0].lower().removesuffix(":")
    found: list[OptionsReport] = []
    # What a plug-in prints during its import must not end up in a JSON document on stdout.
    with contextlib.redirect_stdout(sys.stderr):
        while scheme:
            adapter = registry.load(scheme)
            if adapter is None:
                known = registry.schemes()
                raise InvalidArgumentError(
                    "scheme", f"there is no adapter for {scheme!r}{meant(scheme, known)}; known are {', '.join(known)}"
                )
            model = adapter.options
            shape = " ".join((model.__doc__ or "").split()) if model is not None else ""
            own = None if model is None else fields_of(model)
            found.append(OptionsReport(scheme, registry.describe(scheme) or "", shape, own))
            scheme = scheme.partition("+")[2]
    return found
