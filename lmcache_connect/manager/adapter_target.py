"""`AdapterTarget`: where an adapter class is, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..contract import ConnectorAdapter
from ..errors import AdapterLoadError, ConnectorContractError
from ..foreign import ForeignAdapter
from ..known_secrets import clean_foreign
from ..outside import contained, described, hidden_causes


@dataclass(frozen=True)
class AdapterTarget:
    """Where the adapter class of one scheme is: `target` is `package.module:Class`. Nothing is imported before `load`.

    `distribution` is the installed package that brings it, and `extra` the extra of it that installs its driver.
    """

    scheme: str
    target: str
    distribution: str
    extra: str | None = None

    @hidden_causes()
    def load(self) -> ConnectorAdapter:
        """A new adapter.

        Raises:
            AdapterLoadError: the module, its driver or the class cannot be imported, or the class is not an adapter.
        """
        module, _, attribute = self.target.partition(":")
        try:
            found: Any = getattr(import_module(module), attribute)
        except ImportError as error:
            # Of a module of the adapter's own that is missing, no extra would bring it.
            is_driver = error.name is None or not _is_within(module, error.name)
            raise self._error(clean_foreign(str(error)), self.extra if is_driver else None) from error
        except AttributeError as error:
            raise self._error(clean_foreign(str(error))) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit as well: an import must not end the process
            raise self._error(f"importing it raised {described(error)}") from error
        try:
            return adapter_of(found)
        except ConnectorContractError as error:
            raise self._error(str(error)) from error

    def __str__(self) -> str:
        return f"{self.target} ({self.distribution})"

    def _error(self, reason: str, extra: str | None = None) -> AdapterLoadError:
        return AdapterLoadError(self.scheme, self.target, self.distribution, reason, extra)


def adapter_of(found: object) -> ConnectorAdapter:
    """The adapter that an object is, or that a class without arguments makes.

    One that does not derive from `ConnectorAdapter`, and has its methods, is wrapped.

    Raises:
        ConnectorContractError: it is not an adapter, or the class cannot be made without arguments.
    """
    name = type(found).__qualname__
    try:
        with contained(name, "looking at it"):
            name = str(getattr(found, "__qualname__", name))
            is_adapter = ForeignAdapter.is_adapter(found)
    except Exception as error:
        raise ConnectorContractError(
            name, "adapter", f"cannot be looked at: {described(error)}", "an adapter"
        ) from error
    if not is_adapter:
        raise ConnectorContractError(name, "adapter", "is not a ConnectorAdapter", "a subclass of it, or an instance")
    if isinstance(found, type):
        try:
            with contained(name, "making it"):
                found = found()
        except Exception as error:
            got = f"cannot be made without arguments: {described(error)}"
            raise ConnectorContractError(name, "__init__", got, "a class that takes no arguments") from error
    return found if isinstance(found, ConnectorAdapter) else ForeignAdapter(found)


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
