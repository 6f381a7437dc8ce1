"""`AdapterTarget`: where an adapter class is, and how it is loaded."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final

from ..contract import ConnectorAdapter
from ..errors import (
    AdapterLoadError,
    ConnectorContractError,
)
from ..foreign import ForeignAdapter

DISTRIBUTION: Final = "lmcache-connect"


@dataclass(frozen=True)
class AdapterTarget:
    """Where an adapter class is, without importing it. `extra` is what its driver is installed by."""

    scheme: str
    target: str
    distribution: str
    extra: str | None = None

    def load(self) -> ConnectorAdapter:
        """An instance of the class.

        Raises:
            AdapterLoadError: the module, its driver or the class cannot be imported, or is no adapter.
        """
        module, _, attribute = self.target.partition(":")
        try:
            found: Any = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            extra = self.extra if error.name is None or not _is_within(module, error.name) else None
            raise self._error(str(error), extra) from error
        except AttributeError as error:
            raise self._error(str(error)) from error
        except (Exception, SystemExit) as error:
            raise self._error(f"importing it raised {type(error).__name__}: {error}") from error
        return adapter_instance(found, self._error)

    def _error(self, reason: str, extra: str | None = None) -> AdapterLoadError:
        return AdapterLoadError(self.scheme, self.target, self.distribution, reason, extra)


def adapter_instance(adapter: object, error: Any = None) -> ConnectorAdapter:
    """An adapter for an instance, or for a class that takes no arguments, also where it derives from nothing here.

    Raises:
        ConnectorContractError, or what `error(reason)` gives: it is neither.
    """
    name = getattr(adapter, "__qualname__", type(adapter).__qualname__)
    if isinstance(adapter, type) and (issubclass(adapter, ConnectorAdapter) or ForeignAdapter.is_adapter(adapter)):
        try:
            adapter = adapter()
        except Exception as failure:
            reason = f"cannot be made without arguments: {failure}"
            contract = ConnectorContractError(name, "__init__", reason, "a class that takes no arguments")
            raise (error(reason) if error is not None else contract) from failure
    if not isinstance(adapter, ConnectorAdapter) and ForeignAdapter.is_adapter(adapter):
        adapter = ForeignAdapter(adapter)
    if not isinstance(adapter, ConnectorAdapter):
        reason = f"{name} is no ConnectorAdapter"
        contract = ConnectorContractError(name, "adapter", "is no ConnectorAdapter", "a subclass of it, or an instance")
        raise error(reason) if error is not None else contract
    return adapter


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
