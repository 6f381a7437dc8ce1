"""The columns: connectors and clients of engines, each with the stores that it is tried on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from .callers.caller import Caller
from .callers.connector_caller import ConnectorCaller
from .callers.engine_callers import open_adapter, open_hicache, open_native, open_port, open_tier
from .cell import MODES, Mode
from .faults.fault import Fault
from .places.external_place import ExternalPlace
from .places.groups import ClusterPlace, RingPlace, SentinelPlace
from .places.in_process import MemoryPlace, PluginPlace
from .places.place import Place
from .places.redis_place import RedisPlace
from .places.s3_place import S3Place

OpenCaller = Callable[[str, Mode], Awaitable[Caller]]


async def open_application(url: str, errors: Mode) -> Caller:
    """An application with a manager of its own."""
    return await ConnectorCaller(url, errors).open()


@dataclass(frozen=True)
class Column:
    """One connector, or one client of an engine.

    Attributes:
        places: its stores. A fault happens on the first one that offers what it needs.
        modes: the error modes that it has.
        is_engine: whether it is the client of an engine, with memory and threads of the engine's.
    """

    name: str
    title: str
    places: tuple[Callable[[], Place], ...]
    open: OpenCaller = open_application
    modes: tuple[Mode, ...] = MODES
    is_engine: bool = False

    def place_for(self, fault: Fault) -> Callable[[], Place] | None:
        """The store that the fault can happen on; None where it does not happen to this column."""
        if fault.only_applications and self.is_engine:
            return None
        for place in self.places:
            if not fault.needs or fault.needs in _offers(place):
                return place
        return None


def _offers(place: Callable[[], Place]) -> frozenset[str]:
    return place().offers


def _with_long_names() -> Place:
    place = RedisPlace()
    place.header = (220, 40)  # engines' keys are longer than those of the matrix
    return place


def _hot() -> Place:
    return RedisPlace(before="hot+")


def _unix() -> Place:
    return RedisPlace("unix")


def _tls() -> Place:
    return RedisPlace("rediss")


COLUMNS: Final[tuple[Column, ...]] = (
    Column("memory", "memory", (MemoryPlace,)),
    Column("redis", "Redis", (RedisPlace,)),
    Column("unix", "unix", (_unix,)),
    Column("tls", "TLS", (_tls,)),
    Column("sentinel", "Sentinel", (SentinelPlace,)),
    Column("cluster", "Cluster", (ClusterPlace,)),
    Column("ring", "ring", (RingPlace,)),
    Column("s3", "S3", (S3Place,)),
    Column("hot", "hot", (_hot,)),
    Column("external", "external", (ExternalPlace, PluginPlace)),
    Column("port", "job port", (RedisPlace,), open_port, ("raise",), is_engine=True),
    Column("native", "LMCache native", (_with_long_names,), open_native, ("raise",), is_engine=True),
    Column("l2", "LMCache L2", (_with_long_names,), open_adapter, ("raise",), is_engine=True),
    Column("vllm", "vLLM", (_with_long_names,), open_tier, ("raise",), is_engine=True),
    Column("sglang", "SGLang", (_with_long_names,), open_hicache, ("raise",), is_engine=True),
)
