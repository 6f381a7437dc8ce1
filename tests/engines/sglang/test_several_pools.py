"""The pools of hybrid models (v2): each page with what lies beside it."""

from __future__ import annotations

from itertools import product

import pytest

from lmcache_connect.engines.sglang.prefix_hits import PrefixHits, Presence, leading

from .conftest import Start, keys_of
from .pools import LogicalPool, MHAPool, MLAPool
from .restated import PoolHitPolicy, PoolName, PoolTransfer


class StatePool(MLAPool):
    """One index a page, as Mamba's states have."""

    def __init__(self, pages: int = 8) -> None:
        super().__init__(pages=pages, page_size=1, layers=2, dim=5)


def test_pages_of_several_pools_are_moved_together_and_come_back_byte_by_byte(start: Start) -> None:
    kv, state = MHAPool(), StatePool()
    backend = start(kv)
    backend.register_mem_host_pool_v2(kv, PoolName.KV)
    backend.register_mem_host_pool_v2(state, PoolName.MAMBA)
    kv.fill(1)
    state.fill(2)
    keys = keys_of(3)

    def both(pages: list[int]) -> list[PoolTransfer]:
        return [
            PoolTransfer(PoolName.KV, kv.indices(pages), keys=keys),
            PoolTransfer(PoolName.MAMBA, state.indices(pages[-1:]), keys=keys[-1:]),
        ]

    assert backend.batch_set_v2(both([0, 1, 2])) == {PoolName.KV: [True] * 3, PoolName.MAMBA: [True]}
    assert backend.batch_get_v2(both([3, 4, 5])) == {PoolName.KV: [True] * 3, PoolName.MAMBA: [True]}

    assert [kv.bytes_of(page) for page in (3, 4, 5)] == [kv.bytes_of(page) for page in (0, 1, 2)]
    assert state.bytes_of(5) == state.bytes_of(2)
    assert backend.batch_get_v1(keys, kv.indices([3, 4, 5])) == [True] * 3, "v1 and v2 have the same pages of KV"


def test_a_pool_that_is_not_registered_costs_its_own_answers_alone(start: Start) -> None:
    kv = MHAPool()
    backend = start(kv)
    keys = keys_of(2)
    transfers = [
        PoolTransfer(PoolName.SWA, kv.indices([0, 1]), keys=keys),
        PoolTransfer(PoolName.KV, kv.indices([0, 1]), keys=keys),
        PoolTransfer(PoolName.MAMBA, None, keys=None),
    ]

    for move in (backend.batch_set_v2, backend.batch_get_v2):
        assert move(transfers) == {PoolName.SWA: [False] * 2, PoolName.KV: [True] * 2, PoolName.MAMBA: []}


@pytest.mark.parametrize("indices", [None, "too few"])
def test_other_indices_than_pages_cost_the_answers_of_their_pool(start: Start, indices: str | None) -> None:
    kv, state = MHAPool(), StatePool()
    backend = start(kv)
    backend.register_mem_host_pool_v2(state, PoolName.MAMBA)
    keys = keys_of(2)
    wrong = None if indices is None else kv.indices([0])
    transfers = [
        PoolTransfer(PoolName.KV, wrong, keys=keys),
        PoolTransfer(PoolName.MAMBA, state.indices([0, 1]), keys=keys),
    ]

    assert backend.batch_set_v2(transfers) == {PoolName.KV: [False] * 2, PoolName.MAMBA: [True] * 2}


def test_the_hit_is_what_all_pools_can_restore(start: Start) -> None:
    kv, state, indexer = MHAPool(), StatePool(), StatePool()
    backend = start(kv)
    backend.register_mem_host_pool_v2(state, PoolName.MAMBA)
    backend.register_mem_host_pool_v2(indexer, PoolName.INDEXER)
    keys = keys_of(6)
    backend.batch_set_v1(keys[:5], kv.indices(range(5)))
    backend.batch_set_v2([PoolTransfer(PoolName.MAMBA, state.indices([0, 1]), keys=[keys[1], keys[3]])])
    backend.batch_set_v2([PoolTransfer(PoolName.INDEXER, indexer.indices(range(3)), keys=keys[:3])])
    trailing = PoolTransfer(PoolName.MAMBA, keys=keys[:1], hit_policy=PoolHitPolicy.TRAILING_PAGES)
    every = PoolTransfer(PoolName.INDEXER, keys=keys, hit_policy=PoolHitPolicy.ALL_PAGES)
    groups = PoolTransfer(PoolName.SWA, keys=keys, hit_policy=PoolHitPolicy.BLOCK_GROUPS)

    alone = backend.batch_exists_v2(keys)
    assert (alone.kv_hit_pages, alone.restorable_prefix_pages) == (5, [1, 2, 3, 4, 5])
    assert alone.extra_pool_hit_pages == {PoolName.KV: 5}

    with_state = backend.batch_exists_v2(keys, [trailing])
    assert (with_state.kv_hit_pages, with_state.restorable_prefix_pages) == (4, [2, 4])
    assert with_state.extra_pool_hit_pages == {PoolName.KV: 5, PoolName.MAMBA: 4}

    with_all = backend.batch_exists_v2(keys, [trailing, every, groups])
    assert (with_all.kv_hit_pages, with_all.restorable_prefix_pages) == (2, [2])
    assert with_all.extra_pool_hit_pages == {PoolName.KV: 5, PoolName.MAMBA: 4, PoolName.INDEXER: 3}


def test_where_kv_has_indices_alone_the_other_pools_decide(start: Start) -> None:
    side = MLAPool()
    backend = start(LogicalPool(), mla=True)
    backend.register_mem_host_pool_v2(side, PoolName.INDEXER)
    keys = keys_of(4)
    backend.batch_set_v2([PoolTransfer(PoolName.INDEXER, side.indices([0, 1]), keys=keys[:2])])

    found = backend.batch_exists_v2(keys, [PoolTransfer(PoolName.INDEXER, keys=keys)])
    assert (found.kv_hit_pages, found.restorable_prefix_pages) == (2, [1, 2])


def test_beside_latent_attention_the_states_and_a_draft_with_heads_belong_to_one_rank(start: Start) -> None:
    pools = {PoolName.MAMBA: StatePool(), PoolName.DRAFT: MHAPool(), PoolName.INDEXER: MLAPool()}
    ranks = [start(MLAPool(), mla=True, tp=(rank, 2)) for rank in range(2)]
    for backend in ranks:
        for name, pool in pools.items():
            backend.register_mem_host_pool_v2(pool, name)
    keys = keys_of(1)
    transfers = [PoolTransfer(name, pool.indices([0]), keys=keys) for name, pool in pools.items()]

    assert set(ranks[0].batch_set_v2(transfers)[PoolName.INDEXER]) == {True}
    assert ranks[1].batch_get_v2(transfers) == {
        PoolName.MAMBA: [False],
        PoolName.DRAFT: [False],
        PoolName.INDEXER: [True],
    }
    assert ranks[1].batch_set_v2(transfers) == {
        PoolName.MAMBA: [True],
        PoolName.DRAFT: [True],
        PoolName.INDEXER: [False],
    }


def test_a_trailing_window_is_what_checking_each_window_page_by_page_gives() -> None:
    for flags in product([False, True], repeat=6):
        for window in range(5):
            pages = len(flags)
            expected = [
                length
                for length in range(1, pages + 1)
                if all(flags[at] for at in range(max(0, length - max(1, window)), length))
            ]
            assert Presence("trailing_pages", window, flags).restorable(pages) == expected


def test_a_pool_that_has_nothing_leaves_nothing_to_restore() -> None:
    hits = PrefixHits.of(3, [Presence("all_pages", 0, [False] * 3)])
    assert (hits.pages, hits.by_pool, hits.restorable) == (0, {}, [])
    assert leading([True, False, True]) == 1
