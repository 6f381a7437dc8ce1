"""`ForeignAdapter`: an adapter of another making, held to this toolkit's contract."""

from __future__ import annotations

import logging
from typing import Any

from ..contract import ConnectorAdapter, ConnectorContext, RemoteConnector
from ..errors import ConnectorContractError
from ..observability import event
from .connector import adopt_connector
from .dialect import dialect_for


class ForeignAdapter(ConnectorAdapter):
    """Wraps an object that has `create_connector`, and `can_parse` or a `schema`, whatever it derives from."""

    def __init__(self, adapter: Any) -> None:
        super().__init__(str(getattr(adapter, "schema", "") or ""))
        self.foreign = adapter
        """The object itself."""

    def known_schemes(self) -> tuple[str, ...]:
        """The scheme of its `schema`; or the whole of it, where it is `plugin://type`, which is no scheme's alone."""
        return super().known_schemes() if self.schema.endswith("://") else tuple(filter(None, (self.schema,)))

    @staticmethod
    def is_adapter(kind: object) -> bool:
        """Whether a class, or an instance, has what it takes."""
        return callable(getattr(kind, "create_connector", None)) and (
            callable(getattr(kind, "can_parse", None)) or bool(getattr(kind, "schema", ""))
        )

    def can_parse(self, url: str) -> bool:
        """What the adapter says, and otherwise whether its `schema` is the URL's, exactly."""
        can = getattr(self.foreign, "can_parse", None)
        return bool(can(url)) if callable(can) else super().can_parse(url)

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """What the adapter makes, wrapped where it is no `RemoteConnector` of this toolkit.

        Raises:
            ConnectorContractError: it made no connector.
        """
        dialect = dialect_for(type(self.foreign), context)
        made = self.foreign.create_connector(dialect.context)
        adopted = adopt_connector(made, context, dialect)
        if isinstance(adopted, str):
            raise ConnectorContractError(type(self.foreign).__qualname__, "create_connector", adopted, "a connector")
        return adopted


def answers(adapter: ConnectorAdapter, url: str) -> bool:
    """Whether an adapter says that it can parse a URL. One that stumbles over it cannot."""
    try:
        return bool(adapter.can_parse(url))
    except Exception as error:  # it must not stand in the way of the others
        event(logging.WARNING, "plugin_failed", plugin=type(adapter).__qualname__, error=f"can_parse: {error}")
        return False
