"""What servers tell of themselves: one, several, and such as tell nothing or nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from lmcache_connect import ConnectorManager, LocalCPUBackend
from lmcache_connect.contract import ServerFacts
from lmcache_connect.known_secrets import know
from lmcache_connect.testing import ValkeyServer
from lmcache_connect_redis.diagnosis.demands import Demands
from lmcache_connect_redis.diagnosis.server_facts import ServerFacts as DiagnosedFacts
from lmcache_connect_redis.diagnosis.settings import judge
from lmcache_connect_redis.facts import facts_in

FULL = (
    "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\nuptime_in_seconds:17\r\n# Clients\r\nconnected_clients:3\r\n"
    "# Memory\r\nused_memory:100\r\nmaxmemory:200\r\nmaxmemory_policy:allkeys-lru\r\n# Persistence\r\n"
    "rdb_last_bgsave_status:err\r\naof_last_write_status:ok\r\n# Stats\r\nexpired_keys:5\r\nevicted_keys:6\r\n"
    "# Replication\r\nrole:slave\r\n"
)


def test_the_lines_of_an_answer_are_facts() -> None:
    facts = facts_in(FULL)
    assert facts == ServerFacts("abc", 17.0, "redis 7.0.15", 100, 200, True, 5, 6, 3, False, True)
    assert facts is not None
    assert facts.fill == 0.5
    assert facts_in("run_id:a\r\nuptime_in_seconds:1\r\n") == ServerFacts("a", 1.0, "redis")
    assert facts_in("# Server\r\nuptime_in_seconds:1\r\n") is None
    assert facts_in("run_id:a\r\nuptime_in_seconds:soon\r\n") is None


def test_what_repeats_the_password_is_not_shown() -> None:
    password = SecretStr("abc1Xy")  # short, so that it is not cut out of texts of our own
    know(password, password.get_secret_value())
    names = ("redis_version", "redis_mode", "maxmemory_policy", "loading_loaded_perc", "master_host", "master_port")
    info = dict.fromkeys(names, "abc1Xy") | {"loading": "1", "role": "slave"}
    told = facts_in(FULL.replace("7.0.15", "abc1Xy"))
    assert told is not None
    assert "abc1Xy" not in told.product
    facts = DiagnosedFacts(info, {"save": "abc1Xy", "maxmemory-policy": "volatile-abc1Xy"})
    findings = [*judge(facts, Demands()), *judge(DiagnosedFacts(info), Demands())]
    assert len(findings) >= 6
    assert "abc1Xy" not in f"{facts.product} {findings}"


@given(st.lists(st.tuples(st.sampled_from([line.partition(":")[0] for line in FULL.splitlines()]), st.text())))
def test_an_answer_of_nonsense_raises_nothing(lines: list[tuple[str, str]]) -> None:
    facts = facts_in("".join(f"{name}:{value}\r\n" for name, value in lines))
    assert facts is None or (len(facts.run_id) <= 64 and len(facts.product) <= 64)


@pytest.mark.asyncio
async def test_each_server_of_a_ring_tells_and_one_that_is_gone_is_left_out(local_cpu_backend: LocalCPUBackend) -> None:
    with ValkeyServer(maxmemory="10mb") as one, ValkeyServer(maxmemory="20mb") as two:
        url = f"redis-ring://127.0.0.1:{one.port},127.0.0.1:{two.port}"
        async with ConnectorManager(url, None, local_cpu_backend) as manager:
            connector = manager.create_connector()
            assert sorted(facts.memory_limit or 0 for facts in await connector.server_facts()) == [10 << 20, 20 << 20]
            two.kill()
            assert [facts.memory_limit for facts in await connector.server_facts()] == [10 << 20]
            assert connector.statistics() == {}


@pytest.mark.parametrize("scheme", ["hot+redis", "audit+redis"])
@pytest.mark.asyncio
async def test_a_server_behind_a_wrapper_tells(
    valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend, scheme: str
) -> None:
    async with ConnectorManager(f"{scheme}://127.0.0.1:{valkey_server.port}", None, local_cpu_backend) as manager:
        assert len(await manager.create_connector().server_facts()) == 1


@pytest.mark.asyncio
async def test_a_store_of_another_kind_tells_nothing(local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager("memory://facts", None, local_cpu_backend) as manager:
        assert await manager.create_connector().server_facts() == ()
