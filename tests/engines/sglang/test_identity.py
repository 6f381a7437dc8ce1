"""Whose bytes a page holds: another value of anything that they depend on is a miss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lmcache_connect.errors import InvalidConfigError
from lmcache_connect.testing import ValkeyServer

from .conftest import Start, keys_of
from .pools import MHAPool, MLAPool


class Float16Pool(MHAPool):
    dtype = "torch.float16"


class BytePool(MHAPool):
    dtype = "torch.uint8"


OTHERS: list[Any] = [
    pytest.param(MHAPool, {"model": "org/other"}, id="model"),
    pytest.param(MHAPool, {"identity": {"revision": "r2"}}, id="revision"),
    pytest.param(MHAPool, {"identity": {"revision": "r1", "fingerprint": "w"}}, id="weights"),
    pytest.param(MHAPool, {"identity": {"revision": "r1", "tenant": "b"}}, id="tenant"),
    pytest.param(MHAPool, {"tp": (1, 2)}, id="rank"),
    pytest.param(MHAPool, {"tp": (0, 4)}, id="ranks"),
    pytest.param(MHAPool, {"tp": (0, 2), "pp": (1, 2)}, id="stage"),
    pytest.param(MHAPool, {"tp": (0, 2), "cp": (1, 2)}, id="context rank"),
    pytest.param(Float16Pool, {}, id="dtype"),
    pytest.param(lambda: MHAPool("layer_first"), {}, id="layout"),
    pytest.param(lambda: MHAPool(page_size=8), {}, id="page size"),
    pytest.param(lambda: MHAPool(heads=4, dim=4), {}, id="heads"),
    pytest.param(lambda: MLAPool(heads=4), {"mla": True}, id="attention"),
]


@pytest.mark.parametrize(("pool_of", "given"), OTHERS)
def test_another_value_is_a_miss(start: Start, pool_of: Callable[[], MHAPool], given: dict[str, Any]) -> None:
    pool, other = MHAPool(), pool_of()
    keys = keys_of(1)
    assert start(pool, tp=(0, 2)).batch_set_v1(keys, pool.indices([0])) == [True]
    assert start(pool, tp=(0, 2)).batch_exists(keys) == 1
    reader = start(other, **{"tp": (0, 2), **given})

    assert reader.batch_exists(keys) == 0
    assert reader.batch_get_v1(keys, other.indices([0])) == [False]


def test_each_rank_of_a_model_with_heads_has_pages_of_its_own(start: Start) -> None:
    pools = [MHAPool(), MHAPool()]
    ranks = [start(pool, tp=(rank, 2)) for rank, pool in enumerate(pools)]
    keys = keys_of(2)
    for rank, (backend, pool) in enumerate(zip(ranks, pools, strict=True)):
        pool.fill(rank)
        assert backend.batch_set_v1(keys, pool.indices([0, 1])) == [True, True]

    for backend, pool in zip(ranks, pools, strict=True):
        assert backend.batch_get_v1(keys, pool.indices([4, 5])) == [True, True]
        assert [pool.bytes_of(4), pool.bytes_of(5)] == [pool.bytes_of(0), pool.bytes_of(1)]
    assert pools[0].bytes_of(4) != pools[1].bytes_of(4)


def test_of_the_ranks_with_latent_attention_one_stores_and_all_load_whatever_their_number(start: Start) -> None:
    pool = MLAPool()
    pool.fill()
    first, second = start(pool, mla=True, tp=(0, 2)), start(pool, mla=True, tp=(1, 2))
    wider = start(pool, mla=True, tp=(3, 4))
    keys = keys_of(2)

    assert second.batch_set_v1(keys, pool.indices([0, 1])) == [False, False]
    assert second.batch_exists(keys) == 0
    assert first.batch_set_v1(keys, pool.indices([0, 1])) == [True, True]

    for backend, places in ((second, [2, 3]), (wider, [4, 5])):
        assert backend.batch_get_v1(keys, pool.indices(places)) == [True, True]
        assert [pool.bytes_of(place) for place in places] == [pool.bytes_of(0), pool.bytes_of(1)]


def test_a_key_tells_the_model_and_the_tenant(start: Start, server: ValkeyServer) -> None:
    pool = MHAPool()
    [key] = keys_of(1)
    start(pool, identity={"revision": "r1", "tenant": "team-a"}).batch_set_v1([key], pool.indices([0]))

    with server.client() as client:
        [name] = [name for name in client.scan_iter() if key.encode() in name]
    assert b"model@team-a@" in name


def test_a_name_of_the_operators_replaces_the_path_of_the_model(start: Start) -> None:
    pool = MHAPool()
    keys = keys_of(1)
    identity = {"revision": "r1", "model": "org/model"}
    start(pool, model="/mnt/a/model", identity=identity).batch_set_v1(keys, pool.indices([0]))

    assert start(pool, model="/mnt/b/model", identity=identity).batch_exists(keys) == 1
    assert start(pool, model="/mnt/b/model").batch_exists(keys) == 0


def test_what_cannot_be_told_apart_is_told_once_and_shown_in_the_status(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    backends = [start(MHAPool(), model="org/without-revision", identity=None) for _ in range(2)]

    lines = [record.message for record in caplog.records if record.message.startswith("identity_unknown")]
    assert len(lines) == 1
    assert "cannot_tell_apart=revision" in lines[0]
    assert "identity.revision" in lines[0]
    assert backends[0].status()["pools"]["kv"]["pages"]["unknown"] == ["revision"]


def test_strict_identity_refuses_the_start(start: Start) -> None:
    with pytest.raises(InvalidConfigError, match=r"identity\.revision"):
        start(MHAPool(), identity=None, strict_identity=True)


def test_a_pool_of_bytes_does_not_tell_its_dtype(start: Start) -> None:
    with pytest.raises(InvalidConfigError, match=r"identity\.dtype"):
        start(BytePool(), strict_identity=True)
    pool = BytePool()
    keys = keys_of(1)
    first = start(pool, identity={"revision": "r1", "dtype": "fp8_e4m3"}, strict_identity=True)
    assert first.batch_set_v1(keys, pool.indices([0])) == [True]

    assert start(pool, identity={"revision": "r1", "dtype": "fp8_e5m2"}).batch_exists(keys) == 0
    assert start(pool, identity={"revision": "r1", "dtype": "fp8_e4m3"}).batch_exists(keys) == 1


def test_an_identity_that_contradicts_the_pool_refuses_the_start(start: Start) -> None:
    with pytest.raises(InvalidConfigError, match="'bfloat16'"):
        start(MHAPool(), identity={"revision": "r1", "dtype": "float16"})


def test_a_model_without_a_name_refuses_the_start(start: Start) -> None:
    with pytest.raises(InvalidConfigError, match=r"identity\.model"):
        start(model=None)
    start(model=None, identity={"model": "org/model", "revision": "r1"})
