"""`Roster`: the connectors of one manager, their names, and the plan that each was made from."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Final

from ..errors import UnknownConnectorError
from ..managed import ManagedConnector
from ..observability import StoreMetrics
from .plan import Plan


class Roster:
    """Which connectors there are. Changed on one thread at a time; may be read from any thread.

    `owned` are those that the manager must close. A closed connector is dropped from `owned` when the next one is
    added. It stays in `known` for as long as the application holds it.
    """

    def __init__(self) -> None:
        # Both are replaced as a whole and never changed, so that another thread can go through them.
        self.owned: tuple[ManagedConnector, ...] = ()
        self._known: tuple[weakref.ref[ManagedConnector], ...] = ()
        self._plans: weakref.WeakKeyDictionary[ManagedConnector, Plan] = weakref.WeakKeyDictionary()
        self._numbers: Counter[str] = Counter()
        self.collected_metrics: Final = StoreMetrics("")
        """The counts of connectors that were garbage-collected."""

    @property
    def live(self) -> tuple[ManagedConnector, ...]:
        """The connectors that are not closed, in the order in which they were made."""
        return tuple(connector for connector in self.owned if not connector.is_closed)

    @property
    def known(self) -> tuple[ManagedConnector, ...]:
        """The live connectors, and closed ones that the application still holds, in the order of their making."""
        return tuple(connector for known in self._known if (connector := known()) is not None)

    def next_name(self, scheme: str) -> str:
        """A name that no connector of this roster has had: the scheme and a number."""
        self._numbers[scheme] += 1
        return f"{scheme}-{self._numbers[scheme]}"

    def add(self, connector: ManagedConnector, plan: Plan) -> None:
        """Adds a new connector."""
        self._plans[connector] = plan
        self._known = (*(known for known in self._known if known() is not None), weakref.ref(connector))
        # At the process's exit the counters are not read any more.
        weakref.finalize(connector, self.collected_metrics.add, connector.metrics).atexit = False
        self.owned = (*self.live, connector)

    def add_again(self, connector: ManagedConnector) -> None:
        """Adds a known connector that was closed and is being recreated."""
        if connector not in self.owned:
            self.owned = (*self.live, connector)

    def named(self, name: str) -> ManagedConnector:
        """The known connector of this name.

        Raises:
            UnknownConnectorError: no connector has it.
        """
        known = self.known
        for connector in known:
            if connector.name == name:
                return connector
        raise UnknownConnectorError(name, (connector.name for connector in known))

    def plan_of(self, connector: ManagedConnector) -> Plan:
        """The plan that the connector was made from.

        Raises:
            UnknownConnectorError: it was never added here.
        """
        plan = self._plans.get(connector)
        if plan is None:
            raise UnknownConnectorError(connector.name, (known.name for known in self.known))
        return plan

    def __repr__(self) -> str:
        return f"<Roster of {', '.join(connector.name for connector in self.known) or 'no connectors'}>"
