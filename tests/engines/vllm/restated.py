"""What `Tier` uses of vLLM 0.33.0, in a few lines: for a machine without vLLM. Names and fields are vLLM's."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple


class Medium(Enum):
    CPU = "CPU"
    STORAGE = "STORAGE"


class Locality(Enum):
    LOCAL = "LOCAL"
    REMOTE = "REMOTE"


class LookupResult(Enum):
    MISS = auto()
    HIT = auto()
    HIT_PENDING = auto()
    RETRY = auto()


@dataclass
class ReqContext:
    req_id: str


@dataclass
class RequestOffloadingContext:
    policy: str = "chunk_level"


class ScheduleEndContext(NamedTuple):
    new_req_ids: Any
    preempted_req_ids: Any


@dataclass
class OffloadingEvent:
    keys: list[bytes]
    medium: Medium
    removed: bool
    locality: Locality | None = None


@dataclass(frozen=True)
class OffloadingMetricMetadata:
    documentation: str
    labelnames: tuple[str, ...] = ()


class OffloadingCounterMetadata(OffloadingMetricMetadata):
    pass


class OffloadingGaugeMetadata(OffloadingMetricMetadata):
    pass


@dataclass
class TransferJob:
    job_id: int
    keys: Any
    chunk_ids: Any
    is_promotion: bool
    req_context: ReqContext


@dataclass
class JobResult:
    job_id: int
    success: bool
    successful_keys: Any = None
    transfer_time: float | None = None
    transfer_bytes: int | None = None


class OffloadingConnectorStats:
    """Kept as vLLM keeps it: values by name and labels."""

    def __init__(self) -> None:
        self.values: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)

    def increase_counter(self, name: str, value: float = 1, labelvalues: tuple[str, ...] = ()) -> None:
        self.values[name][labelvalues] = self.values[name].get(labelvalues, 0) + value

    def set_gauge(self, name: str, value: float, labelvalues: tuple[str, ...] = ()) -> None:
        self.values[name][labelvalues] = value

    def is_empty(self) -> bool:
        return not self.values

    def reduce(self) -> dict[str, float]:
        return {
            f"{name}:{labels}" if labels else name: value
            for name, by_labels in self.values.items()
            for labels, value in by_labels.items()
        }


class SecondaryTierManager(ABC):
    medium: Medium | None = None

    def __init__(
        self, offloading_spec: Any, primary_kv_view: memoryview, tier_type: str, backpressure_detector: Any = None
    ) -> None:
        self._offloading_spec = offloading_spec
        self._primary_kv_view = primary_kv_view
        assert primary_kv_view.strides is not None
        self._block_size_bytes = primary_kv_view.strides[0]
        self.tier_type = tier_type
        self.locality: Locality | None = None

    @property
    def block_size_bytes(self) -> int:
        return self._block_size_bytes

    @abstractmethod
    def lookup(self, key: bytes, req_context: ReqContext) -> LookupResult: ...
    @abstractmethod
    def submit_store(self, job_metadata: TransferJob) -> None: ...
    @abstractmethod
    def submit_load(self, job_metadata: TransferJob) -> None: ...
    @abstractmethod
    def get_finished_jobs(self) -> Any: ...
    @abstractmethod
    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext: ...
    @abstractmethod
    def drain_jobs(self) -> None: ...


_WHERE = {
    "vllm.v1.kv_offload.base": (
        Medium,
        Locality,
        LookupResult,
        ReqContext,
        RequestOffloadingContext,
        ScheduleEndContext,
        OffloadingEvent,
        OffloadingMetricMetadata,
        OffloadingCounterMetadata,
        OffloadingGaugeMetadata,
    ),
    "vllm.v1.kv_offload.tiering.base": (TransferJob, JobResult, SecondaryTierManager),
    "vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics": (OffloadingConnectorStats,),
}


@contextmanager
def restated() -> Iterator[None]:
    """While it lasts, `import vllm...` gives what stands above. Afterwards there is no vLLM again."""
    made: list[str] = []
    for name, members in _WHERE.items():
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            package = ".".join(parts[:length])
            if package not in sys.modules:
                sys.modules[package] = ModuleType(package)
                made.append(package)
        module: Any = sys.modules[name]
        for member in members:
            setattr(module, member.__name__, member)
        module.OffloadKey = bytes
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


@dataclass(frozen=True)
class Names:
    """What a test needs of vLLM's, the real one or the one above."""

    lookup_result: Any = LookupResult
    req_context: Callable[[str], Any] = ReqContext
    schedule_end: Any = field(default_factory=lambda: ScheduleEndContext((), ()))
    transfer_job: Any = TransferJob


def spec(
    *,
    model: str = "org/model",
    dtype: str = "bfloat16",
    layout: str | None = "LBNHC",
    groups: int = 1,
    tp: int = 1,
    events: bool = False,
    canonical: bool = False,
) -> Any:
    """An `OffloadingSpec`, as far as a tier reads it."""
    return SimpleNamespace(
        config=SimpleNamespace(
            groups=tuple(
                SimpleNamespace(tokens_per_block=16, layer_names=(f"layer.{group}",), group_id=group)
                for group in range(groups)
            ),
            model=SimpleNamespace(name=model, dtype=dtype),
            cache=SimpleNamespace(tokens_per_hash=16, blocks_per_chunk=1),
            parallel=SimpleNamespace(
                tp_size=tp, pp_size=1, pcp_size=1, dcp_size=1, world_size=tp, rank=0, is_parallelism_agnostic=canonical
            ),
            replicated_layout=False,
            canonical_layout=canonical,
            kv_cache_layout=layout,
        ),
        kv_events_config=SimpleNamespace(enable_kv_cache_events=events),
    )
