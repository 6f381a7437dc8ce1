"""Stores in this process: `memory://`, and a connector of somebody else's that misbehaves as it is told."""

from __future__ import annotations

from uuid import uuid4

from .place import Place, Way


class MemoryPlace(Place):
    """A dictionary of this process."""

    def start(self) -> None:
        self._name = uuid4().hex

    def url(self, way: Way) -> str:
        return f"memory://{self._name}"


class PluginPlace(Place):
    """`external://` around a class of another package, which misbehaves as it is told."""

    offers = frozenset({"plug-in"})

    def start(self) -> None:
        pass

    def url(self, way: Way) -> str:
        name = "CarelessInThreads" if way == "answers" else "Careless"
        return f"external://host:0/tests.matrix.careless/?connector_name={name}"

    def mend(self) -> None:
        from .. import careless

        careless.behave()
