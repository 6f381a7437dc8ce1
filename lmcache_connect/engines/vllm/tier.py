"""`Tier`: a store of this toolkit's as a secondary tier of vLLM's `TieringOffloadingSpec`. Written for vLLM 0.33.0.

--kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": {
    "spec_name": "TieringOffloadingSpec", "cpu_bytes_to_use": 17179869184,
    "secondary_tiers": [{"type": "Tier", "module_path": "lmcache_connect.engines.vllm",
                         "url": "redis://store:6379", "identity": {"revision": "main"}}]}}'
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import MissingEngineError
from ...process import this_process
from ..jobs import JobPort
from ..namespace import Namespace
from .exchange import Exchange
from .figures import COUNTERS, GAUGES, Figures
from .load_parts import AT_A_TIME, LoadParts
from .lookups import Lookups
from .moved import Moved
from .primary_memory import PrimaryMemory
from .spec_identity import identity_of
from .tasks import Answer, Found, Load, LookUp, Place, Store
from .tier_options import TierOptions

try:
    from vllm.v1.kv_offload.base import (
        Locality,
        LookupResult,
        Medium,
        OffloadingCounterMetadata,
        OffloadingEvent,
        OffloadingGaugeMetadata,
        OffloadingMetricMetadata,
        OffloadKey,
        ReqContext,
        RequestOffloadingContext,
        ScheduleEndContext,
    )
    from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob
except ImportError as missing:
    raise MissingEngineError("Tier", "vLLM", missing.name or "vllm") from missing

if TYPE_CHECKING:
    from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
    from vllm.v1.kv_offload.base import OffloadingSpec

_NAMESPACE_LABEL = "lmcache_connect_namespace"
_UNKNOWN_LABEL = "lmcache_connect_unknown"


class Tier(SecondaryTierManager):  # type: ignore[misc]
    """Loads chunks from a store straight into vLLM's primary tier, and stores them from there.

    vLLM calls every method from its scheduler, under a lock. None waits for the store but `drain_jobs` and `shutdown`,
    and none raises because of the store. Once a transfer is reported as failed, nothing of it writes into a chunk.
    """

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: OffloadingSpec,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        **options: Any,
    ) -> None:
        """Makes the tier. It connects to the store on first use. `options` are those of `TierOptions`.

        Raises:
            InvalidConfigError: an option or a setting is unknown, or has a wrong value.
            InvalidURLError, AdapterLoadError: no connector can be made for the URL.
            InvalidArgumentError: vLLM's memory is not laid out as expected.
        """
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        chosen = TierOptions.load(options)
        self.locality = Locality(chosen.locality) if chosen.locality is not None else None
        memory = PrimaryMemory(primary_kv_view)
        identity = identity_of(offloading_spec.config, memory.chunk_nbytes, chosen.identity)
        self._grace = chosen.config().close_grace
        namespace = Namespace(identity, strict_identity=chosen.strict_identity)
        port = JobPort(
            chosen.store_url(),
            deadline=chosen.deadline,
            max_waiting_store_bytes=chosen.max_waiting_store_bytes,
            **chosen.settings,
        )
        self._namespace = namespace
        self._memory = memory
        self._port = port
        self._lookups = Lookups(chosen.lookup_deadline)
        self._exchange = Exchange(Place(port, namespace, memory))
        self._figures = Figures(chosen.name or tier_type)
        self._under_way: set[int] = set()
        self._finished: list[JobResult] = []
        self._events: list[OffloadingEvent] = []
        self._tells_events = (
            chosen.enable_kv_events
            and offloading_spec.kv_events_config.enable_kv_cache_events  # else nobody takes them
        )
        self._is_new_step = True
        self._is_shut = False
        self._process = this_process()

    # ---------------------------------------------------------------------------------------------- look-ups

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """Returns what vLLM does by default: chunks are offloaded as they are computed."""
        return RequestOffloadingContext()

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """Returns RETRY until the store has answered or `lookup_deadline` has passed; then HIT or MISS."""
        if self._is_new_step:
            self._is_new_step = False
            self._lookups.begin_step()
            self._take_answers()
        found = self._lookups.answer(key, req_context.req_id)
        if found is None:
            return LookupResult.RETRY
        return LookupResult.HIT if found else LookupResult.MISS

    def on_request_finished(self, req_context: ReqContext) -> None:
        """Forgets what only this request asked for."""
        self._lookups.forget(req_context.req_id)

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        """Asks the store for the keys of this step, all at once."""
        self._take_answers()
        self._is_new_step = True
        if batch := self._lookups.take_batch():
            self._exchange.give(LookUp(batch))

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        """Does nothing: a store keeps its own account of what is used, and reading a chunk is use."""

    # --------------------------------------------------------------------------------------------- transfers

    def submit_store(self, job_metadata: TransferJob) -> None:
        """Has the chunks stored that the store does not have. Those whose load failed are stored again."""
        keys = tuple(job_metadata.keys)
        self._under_way.add(job_metadata.job_id)
        again = self._lookups.failed_among(keys)
        self._exchange.give(Store(job_metadata.job_id, keys, job_metadata.chunk_ids, self._due(), again))

    def submit_load(self, job_metadata: TransferJob) -> None:
        """Has the chunks loaded into vLLM's memory."""
        self._under_way.add(job_metadata.job_id)
        keys = tuple(job_metadata.keys)
        nbytes = self._memory.chunk_nbytes
        parts = LoadParts(job_metadata.job_id, keys, job_metadata.chunk_ids, nbytes, self._due())
        for part in [parts.take() for _ in range(AT_A_TIME)]:
            if part is not None:
                self._exchange.give(Load(parts, part))

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """Returns the transfers that have ended since the last call. A load that failed tells which keys came."""
        self._take_answers()
        finished, self._finished = self._finished, []
        return finished

    def has_pending_work(self) -> bool:
        """Whether a transfer has not ended, or was not reported yet."""
        return bool(self._under_way or self._finished)

    def drain_jobs(self) -> None:
        """Waits until every transfer has ended. Each ends by its deadline."""
        while self._under_way:
            self._take(self._exchange.wait())

    # ------------------------------------------------------------------------------------- what vLLM is told

    def take_events(self) -> Iterable[OffloadingEvent]:
        """Returns events for the chunks that were stored since the last call, where `enable_kv_events` is on."""
        events, self._events = self._events, []
        return events

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, OffloadingMetricMetadata]:
        """Returns the metrics of this tier."""
        return {
            **{
                name: OffloadingCounterMetadata(documentation=text, labelnames=labels)
                for name, (text, labels) in COUNTERS.items()
            },
            **{
                name: OffloadingGaugeMetadata(documentation=text, labelnames=labels)
                for name, (text, labels) in GAUGES.items()
            },
        }

    def get_stats(self) -> OffloadingConnectorStats | None:
        """Returns what was counted or has changed since the last call; None: nothing."""
        from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats

        expired, self._lookups.expired = self._lookups.expired, 0
        self._figures.add_expired(expired)
        self._figures.set_under_way(len(self._under_way))
        return self._figures.take(OffloadingConnectorStats()) if self._figures.has_news else None

    @classmethod
    def config_info_keys(cls, tier_config: dict[str, Any]) -> tuple[str, ...]:
        """Returns the labels of vLLM's metric of its configuration: the namespace of keys, and what is not known."""
        return (_NAMESPACE_LABEL, _UNKNOWN_LABEL)

    def config_info(self) -> Mapping[str, str]:
        """Returns the values of those labels."""
        return {_NAMESPACE_LABEL: self._namespace.prefix, _UNKNOWN_LABEL: ",".join(self._namespace.unknown)}

    def shutdown(self) -> None:
        """Ends all transfers and closes the connection. Nothing touches vLLM's memory afterwards. Idempotent.

        Raises:
            ExchangeStuckError: something did not end. vLLM then keeps the memory.
        """
        if self._is_shut:
            return
        self._exchange.close(self._grace)
        self._is_shut = True
        if not self._process.is_forked():
            self._take_answers()
        self._memory.release()

    # ----------------------------------------------------------------------------------------------- answers

    def _due(self) -> float:
        return time.monotonic() + self._port.deadline

    def _take_answers(self) -> None:
        while (answer := self._exchange.take()) is not None:
            self._take(answer)

    def _take(self, answer: Answer) -> None:
        if isinstance(answer, Found):
            self._lookups.resolve(answer.probes, answer.flags)
        else:
            self._under_way.discard(answer.job)
            self._finished.append(self._result_of(answer))

    def _result_of(self, moved: Moved) -> JobResult:
        good = tuple(key for key, flag in zip(moved.keys, moved.flags, strict=True) if flag)
        failed = len(moved.keys) - len(good)
        nbytes = moved.moved * self.block_size_bytes
        operation = "load" if moved.is_load else "store"
        self._figures.add_transfer(operation, moved.moved, failed, len(good) - moved.moved, nbytes, moved.seconds)
        if moved.is_load and failed:
            bad = (key for key, flag in zip(moved.keys, moved.flags, strict=True) if not flag)
            self._lookups.mark_failed(bad)
        if not moved.is_load and good and self._tells_events:
            self._events.append(
                OffloadingEvent(keys=list(good), medium=self.medium, removed=False, locality=self.locality)
            )
        return JobResult(
            job_id=moved.job,
            success=not failed,
            successful_keys=good if moved.is_load and failed else None,
            transfer_time=moved.seconds,
            transfer_bytes=nbytes,
        )
