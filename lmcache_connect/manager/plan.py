"""`Plan`: what answers for a URL, and for the URLs inside it."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import ConnectorConfig
from ..contract import ConnectorAdapter, ConnectorOptions
from ..url import RemoteURL
from .builtin import is_ours


@dataclass(frozen=True, repr=False)
class Plan:
    """One URL, the adapter that answers for it, its validated options, and the plans of the URLs inside it.

    A store's plan has nothing inside. A wrapper's, such as that of `fault+redis://host`, has one plan inside for each
    store that it stands around. A plan holds no connection: any number of connectors can be made from it.
    """

    url: RemoteURL
    adapter: ConnectorAdapter
    plugin_name: str | None
    """What the connector is told as its plug-in's name."""
    options: ConnectorOptions | None
    """The URL's options, parsed and validated; None where the adapter declares no model of them."""
    inner: tuple[Plan, ...] = ()

    @property
    def is_foreign(self) -> bool:
        """Whether code that this distribution does not bring makes the connector, or one inside it."""
        own = self.adapter.makes_foreign or not is_ours(type(self.adapter))
        return own or any(plan.is_foreign for plan in self.inner)

    def settings(self, base: ConnectorConfig) -> ConnectorConfig:
        """`base`, with the options of every URL in the plan in place of the settings that they override.

        An outer URL's option beats an inner one's. Of several inner URLs the first one wins.
        """
        for plan in reversed(self.inner):
            base = plan.settings(base)
        return base if self.options is None else base.model_copy(update=self.options.overrides())

    def __repr__(self) -> str:
        inside = f" around {', '.join(map(repr, self.inner))}" if self.inner else ""
        return f"<Plan {self.url.label()} by {type(self.adapter).__name__}{inside}>"
