"""The tier inside vLLM: through its own `TieringOffloadingSpec`, factory and manager, on its shared memory."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from lmcache_connect.testing import ValkeyServer

from .host import AT_MOST, content_of, key_of
from .restated import Names

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("vllm", reason="vLLM is not installed")

pytestmark = [pytest.mark.torch, pytest.mark.vllm]

NBYTES = 8192
_numbers = itertools.count()


class Inside:
    """One engine's manager, with the tier as its configuration names it."""

    def __init__(self, url: str, *, chunks: int = 16, groups: int = 1, **options: Any) -> None:
        from vllm.v1.kv_offload import config as vllm_config
        from vllm.v1.kv_offload.base import ScheduleEndContext
        from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

        tier = {
            "type": "Tier",
            "module_path": "lmcache_connect.engines.vllm",
            "url": url,
            "identity": {"revision": "r"},
        }
        self.extra = {"cpu_bytes_to_use": chunks * NBYTES, "secondary_tiers": [{**tier, **options}]}
        self.spec = TieringOffloadingSpec(
            vllm_config.OffloadingConfig(
                groups=tuple(
                    vllm_config.OffloadingGroupConfig(
                        tokens_per_block=16, layer_names=(f"layer.{group}",), group_id=group
                    )
                    for group in range(groups)
                ),
                worker_kv_bytes_per_block=NBYTES,
                enable_kv_cache_events=True,
                extra_config=self.extra,
                engine_id=f"lmcache-connect-test-{os.getpid()}-{next(_numbers)}",
                model=vllm_config.OffloadingModelConfig(name="org/model", dtype="bfloat16"),
                cache=vllm_config.OffloadingCacheConfig(tokens_per_hash=16, blocks_per_chunk=1),
                parallel=vllm_config.OffloadingParallelConfig(
                    rank=0,
                    world_size=1,
                    tp_size=1,
                    pp_size=1,
                    pcp_size=1,
                    dcp_size=1,
                    data_parallel_index=0,
                    data_parallel_size=1,
                    data_parallel_rank_local=None,
                    is_parallelism_agnostic=False,
                ),
                kv_cache_layout="LBNHC",
            )
        )
        self.manager: Any = self.spec.get_manager()
        self.region: Any = self.spec._scheduler_mmap
        self.view = self.manager.primary_tier.get_kv_memoryview().cast("B")
        self.tier = self.manager.secondary_tiers[0]
        self._step = ScheduleEndContext((), ())
        self._requests = itertools.count()

    def close(self) -> None:
        self.view.release()
        self.manager.shutdown()

    def step(self) -> None:
        with self.manager.lock:
            self.manager.on_schedule_end(self._step)
        time.sleep(0.0005)

    def request(self) -> Any:
        from vllm.v1.kv_offload.base import ReqContext

        context = ReqContext(f"r{next(self._requests)}")
        self.manager.on_new_request(context)
        return context

    def finish(self) -> None:
        """Takes steps until nothing is under way."""
        ends = time.monotonic() + AT_MOST
        while self.manager.has_pending_work():
            assert time.monotonic() < ends
            self.step()

    def store(self, keys: Sequence[bytes], contents: Sequence[bytes]) -> None:
        """What vLLM does with chunks that a GPU has computed: into the primary tier, and from there into the tier."""
        context = self.request()
        output = self.manager.prepare_store(keys, context)
        assert output is not None
        by_key = dict(zip(keys, contents, strict=True))
        for key, chunk in zip(output.keys_to_store, output.store_spec.chunk_ids, strict=True):
            self.view[chunk * NBYTES : (chunk + 1) * NBYTES] = by_key[key]
        self.manager.complete_store(set(output.keys_to_store), context)
        self.finish()
        self.manager.on_request_finished(context)
        self.step()

    def find(self, keys: Sequence[bytes], context: Any) -> list[bool]:
        """Asks as vLLM's scheduler does, in every step, until each key is in the primary tier or missing."""
        from vllm.v1.kv_offload.base import LookupResult

        ends = time.monotonic() + AT_MOST
        while True:
            answers = [self.manager.lookup(key, context) for key in keys]
            if not {LookupResult.RETRY, LookupResult.HIT_PENDING} & set(answers):
                return [answer is LookupResult.HIT for answer in answers]
            assert time.monotonic() < ends
            self.step()

    def read(self, keys: Sequence[bytes], context: Any) -> list[bytes]:
        """The chunks' bytes, pinned as for a GPU."""
        chunks = self.manager.prepare_load(keys, context).chunk_ids
        found = [bytes(self.view[chunk * NBYTES : (chunk + 1) * NBYTES]) for chunk in chunks]
        self.manager.complete_load(keys, context)
        return found


@pytest.fixture
def inside(names: Names, tier_class: Any) -> Iterator[Callable[..., Inside]]:
    engines: list[Inside] = []

    def make(url: str, **options: Any) -> Inside:
        engines.append(Inside(url, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
        assert engine.region.mmap_obj is None, "vLLM could not unmap its memory: a view of it is left"


def keys_and_contents(numbers: Sequence[int], group: int = 0) -> tuple[list[bytes], list[bytes]]:
    return [key_of(number, group) for number in numbers], [content_of(number, group) for number in numbers]


def test_a_second_engine_finds_what_the_first_has_stored_with_equal_bytes(
    inside: Callable[..., Inside], valkey_url: str
) -> None:
    first, second = inside(valkey_url), inside(valkey_url)
    keys, contents = keys_and_contents(range(10))
    first.store(keys, contents)
    context = second.request()
    assert second.find(keys, context) == [True] * 10
    assert second.read(keys, context) == contents
    second.manager.on_request_finished(context)
    second.finish()


def test_holes_are_missing_and_groups_are_kept_apart(inside: Callable[..., Inside], valkey_url: str) -> None:
    first, second = (inside(valkey_url, groups=2) for _ in range(2))
    for group in (0, 1):
        first.store(*keys_and_contents([1, 3, 5] if group else [0, 1, 4], group))
    context = second.request()
    wanted = [key_of(number, group) for number in range(6) for group in (0, 1)]
    there = [number in ((1, 3, 5) if group else (0, 1, 4)) for number in range(6) for group in (0, 1)]
    assert second.find(wanted, context) == there
    good = [key for key, is_there in zip(wanted, there, strict=True) if is_there]
    assert second.read(good, context) == [
        content_of(int.from_bytes(key[:-4], "big"), int.from_bytes(key[-4:], "big")) for key in good
    ]


def test_a_chunk_that_vanishes_before_its_load_is_computed_and_the_others_are_loaded(
    inside: Callable[..., Inside], valkey_server: ValkeyServer, valkey_url: str
) -> None:
    first, second = inside(valkey_url), inside(valkey_url)
    keys, contents = keys_and_contents(range(4))
    first.store(keys, contents)
    context = second.request()
    names = [name for name in valkey_server.client().scan_iter() if keys[2][:-4].hex().encode() in name]
    answers = [second.tier.lookup(key, context) for key in keys]
    while any(answer.name == "RETRY" for answer in answers):
        second.step()
        answers = [second.tier.lookup(key, context) for key in keys]
    valkey_server.client().delete(*names)
    assert second.find(keys, context) == [True, True, False, True]
    good = [keys[0], keys[1], keys[3]]
    assert second.read(good, context) == [contents[0], contents[1], contents[3]]


def test_a_store_that_is_gone_costs_misses_alone(inside: Callable[..., Inside]) -> None:
    with ValkeyServer() as server:
        one = inside(server.url(), deadline=5, breaker_reset=0.05)
        keys, contents = keys_and_contents(range(4))
        one.store(keys, contents)
        server.kill()
        others, their_contents = keys_and_contents(range(10, 14))
        context = one.request()
        assert one.find(others, context) == [False] * 4
        one.store(others, their_contents)
        assert one.find([*keys, *others], context) == [True] * 8, "the primary tier has them"
        server.restart()


def test_resetting_the_cache_waits_for_transfers_and_keeps_the_store(
    inside: Callable[..., Inside], valkey_url: str
) -> None:
    one = inside(valkey_url)
    keys, contents = keys_and_contents(range(8))
    context = one.request()
    output = one.manager.prepare_store(keys, context)
    for key, chunk in zip(output.keys_to_store, output.store_spec.chunk_ids, strict=True):
        one.view[chunk * NBYTES : (chunk + 1) * NBYTES] = contents[keys.index(key)]
    one.manager.complete_store(set(keys), context)
    one.manager.reset_cache()
    one.view[:] = bytes(len(one.view))
    one.manager.on_reset_flushed()
    assert one.find(keys, context) == [True] * 8
    assert one.read(keys, context) == contents


def test_vllm_takes_the_events_and_the_figures_of_the_tier(inside: Callable[..., Inside], valkey_url: str) -> None:
    from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

    one = inside(valkey_url, enable_kv_events=True, locality="REMOTE")
    keys, contents = keys_and_contents(range(3))
    one.store(keys, contents)
    events = [event for event in one.manager.take_events() if event.medium is one.tier.medium]
    assert [set(event.keys) for event in events] == [set(keys)]
    figures = one.manager.get_stats().reduce()
    assert figures["lmcache_connect_vllm_chunks:('Tier', 'store', 'ok')"] == 3
    declared = TieringOffloadingSpec.build_metric_definitions(one.extra)
    ours = {name.partition(":('")[0] for name in figures if name.startswith("lmcache_connect")}
    assert ours <= set(declared)
    labels = TieringOffloadingSpec.config_info_keys(one.extra)
    assert set(one.manager.config_info()[1]) <= set(labels)
    assert one.manager.config_info()[1]["lmcache_connect_namespace"].startswith("lc1@model@")


def test_vllms_backpressure_sees_stores_that_fail(inside: Callable[..., Inside]) -> None:
    with ValkeyServer() as server:
        backpressure = {"backpressure_cls": "EMABackpressureDetector"}
        one = inside(server.url(), deadline=5, backpressure=backpressure)
        server.kill()
        one.store(*keys_and_contents(range(3)))
        assert one.tier.bp_detector is not None
        server.restart()


def test_a_wrong_url_ends_vllms_start_with_words_that_name_it(names: Names) -> None:
    with pytest.raises(ValueError, match="reddis"):
        Inside("reddis://store:6379")
