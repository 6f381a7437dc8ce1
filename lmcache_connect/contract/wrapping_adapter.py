"""`WrappingAdapter`: makes connectors around those of any other scheme."""

from __future__ import annotations

from abc import abstractmethod

from .connector import RemoteConnector
from .context import ConnectorContext
from .prefix_adapter import PrefixAdapter


class WrappingAdapter(PrefixAdapter):
    """Makes the connector inside, with the same event loop, memory and configuration, and has `wrap` wrap it.

    `PrefixAdapter` says for which URLs, and which options are whose.
    """

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """The connector inside, wrapped."""
        return self.wrap(context.make_wrapped(), context)

    @abstractmethod
    def wrap(self, connector: RemoteConnector, context: ConnectorContext) -> RemoteConnector:
        """A connector around `connector`, which it closes. `context.options(model)` are its options."""
