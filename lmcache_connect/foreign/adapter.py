"""`ForeignAdapter`: an adapter that does not derive from this toolkit's classes, held to this toolkit's contract."""

from __future__ import annotations

import logging
from typing import Any

from ..contract import ConnectorAdapter, ConnectorContext, RemoteConnector
from ..observability import event
from ..outside import contained, described
from .dialect import dialect_for
from .making import adopt_connector


class ForeignAdapter(ConnectorAdapter):
    """Wraps an object that has `create_connector`, and `can_parse` or a `schema`, whatever it derives from."""

    makes_foreign = True

    def __init__(self, adapter: Any) -> None:
        super().__init__(str(getattr(adapter, "schema", "") or ""))
        self.foreign = adapter
        """The object itself."""

    def known_schemes(self) -> tuple[str, ...]:
        """The scheme of its `schema`, or all of a `schema` such as `plugin://type`, which does not own its scheme."""
        return super().known_schemes() if self.schema.endswith("://") else tuple(filter(None, (self.schema,)))

    @staticmethod
    def is_adapter(kind: object) -> bool:
        """Whether a class, or an instance, has the methods of an adapter."""
        return callable(getattr(kind, "create_connector", None)) and (
            callable(getattr(kind, "can_parse", None)) or bool(getattr(kind, "schema", ""))
        )

    def can_parse(self, url: str) -> bool:
        """What the adapter's own `can_parse` says; without one, whether the URL's scheme is exactly its own."""
        can = getattr(self.foreign, "can_parse", None)
        return bool(can(url)) if callable(can) else super().can_parse(url)

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """What the adapter makes, wrapped where it is not a `RemoteConnector`.

        Raises:
            ConnectorContractError: it made something else.
        """
        kind = type(self.foreign)
        dialect = dialect_for(kind, context)
        return adopt_connector(self.foreign.create_connector(dialect.context), context, kind.__qualname__, dialect)


def answers(adapter: ConnectorAdapter, url: str) -> bool:
    """Whether an adapter says that it can parse a URL. One that raises cannot, and the failure is logged."""
    try:
        with contained(type(adapter).__qualname__, "can_parse"):
            return bool(adapter.can_parse(url))
    except Exception as error:  # it must not keep the others from being asked
        event(
            logging.WARNING, "plugin_failed", plugin=type(adapter).__qualname__, error=f"can_parse: {described(error)}"
        )
        return False
