"""`Roster`: the connectors of one manager, their names, and the plan that each was made from."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Final

from ..errors import UnknownConnectorError
from ..managed import ManagedConnector
from ..observability import StoreMetrics
from .plan import Plan

_FEW: Final = 32


class Roster:
    """Which connectors there are. Changed on one thread at a time; may be read from any thread.

    `owned` are those that the manager must close. A closed connector is dropped from `owned` when the next one is
    added; where there are more than a few, when their number has doubled, so that adding one costs the same however
    many there are. It stays in `known` for as long as the application holds it.
    """

    def __init__(self) -> None:
        # Both are replaced as a whole and never changed, so that another thread can go through them.
        self.owned: tuple[ManagedConnector, ...] = ()
        self._known: tuple[weakref.ref[ManagedConnector], ...] = ()
        self._most_owned = self._most_known = 0  # with so many, it is time to look for those that are closed
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
        self._tidy()
        self._plans[connector] = plan
        self._known = (*self._known, weakref.ref(connector))
        # At the process's exit the counters are not read any more.
        weakref.finalize(connector, self.collected_metrics.add, connector.metrics).atexit = False
        self.owned = (*self.owned, connector)

    def add_again(self, connector: ManagedConnector) -> None:
        """Adds a known connector that was closed and is being recreated."""
        if connector not in self.owned:
            self._tidy()
            self.owned = (*self.owned, connector)

    def _tidy(self) -> None:
        if len(self.owned) <= _FEW or len(self.owned) >= self._most_owned:
            self.owned = self.live
            self._most_owned = 2 * len(self.owned)
        if len(self._known) <= _FEW or len(self._known) >= self._most_known:
            self._known = tuple(known for known in self._known if known() is not None)
            self._most_known = 2 * len(self._known)

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
