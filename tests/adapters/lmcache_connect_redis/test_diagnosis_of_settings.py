"""What is said of a server's settings, by what it tells of itself."""

from __future__ import annotations

import pytest

from lmcache_connect.contract import Finding, Verdict
from lmcache_connect.streaming import certificate_finding
from lmcache_connect_redis.diagnosis.demands import Demands
from lmcache_connect_redis.diagnosis.sentinels import judge_sentinels
from lmcache_connect_redis.diagnosis.server_facts import ServerFacts, fields_of
from lmcache_connect_redis.diagnosis.settings import judge
from lmcache_connect_redis.diagnosis.several import merged
from lmcache_connect_redis.topology.sentinels import ServiceView

INFO = {"used_memory": str(100 << 20), "total_system_memory": str(16 << 30), "connected_clients": "5", "role": "master"}
GOOD = {
    "maxmemory": str(1 << 30),
    "maxmemory-policy": "allkeys-lru",
    "proto-max-bulk-len": str(512 << 20),
    "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
    "save": "",
    "appendonly": "no",
    "timeout": "0",
    "tcp-keepalive": "300",
    "maxclients": "10000",
    "io-threads": "4",
}


def found(config: dict[str, str], info: dict[str, str] | None = None, **demands: object) -> dict[str, Finding]:
    facts = ServerFacts({**INFO, **(info or {})}, {**GOOD, **config})
    return {finding.subject: finding for finding in judge(facts, Demands(**demands))}  # type: ignore[arg-type]


def test_good_settings_are_good() -> None:
    assert {finding.verdict for finding in found({}).values()} == {Verdict.GOOD}


@pytest.mark.parametrize(
    ("config", "info", "subject", "verdict", "advice"),
    [
        ({"maxmemory": "0"}, {}, "maxmemory", Verdict.HURTS, "CONFIG SET maxmemory 11gb"),
        ({}, {"evicted_keys": "7"}, "maxmemory", Verdict.NOTE, "more memory"),
        (
            {"maxmemory-policy": "noeviction"},
            {"used_memory": str(1 << 30)},
            "maxmemory",
            Verdict.FAILS,
            "raise maxmemory",
        ),
        ({"maxmemory-policy": "noeviction"}, {}, "maxmemory-policy", Verdict.HURTS, "allkeys-lru"),
        ({"maxmemory-policy": "volatile-lru"}, {}, "maxmemory-policy", Verdict.HURTS, "?ttl="),
        ({"maxmemory-policy": "allkeys-random"}, {}, "maxmemory-policy", Verdict.NOTE, "allkeys-lru"),
        ({"proto-max-bulk-len": "1048576"}, {}, "proto-max-bulk-len", Verdict.FAILS, "proto-max-bulk-len 512mb"),
        (
            {"client-output-buffer-limit": "normal 1048576 0 0"},
            {},
            "client-output-buffer-limit",
            Verdict.HURTS,
            '"normal 0 0 0"',
        ),
        ({"io-threads": "1"}, {}, "io-threads", Verdict.NOTE, "io-threads 4"),
        ({"save": "3600 1"}, {}, "persistence (RDB)", Verdict.HURTS, 'CONFIG SET save ""'),
        ({"appendonly": "yes"}, {}, "persistence (AOF)", Verdict.HURTS, "appendonly no"),
        ({}, {"rdb_last_bgsave_status": "err"}, "persistence (RDB)", Verdict.FAILS, "its log"),
        ({}, {"loading": "1"}, "loading", Verdict.FAILS, "wait"),
        ({"timeout": "30"}, {}, "timeout", Verdict.HURTS, "timeout 0"),
        ({"timeout": "3600"}, {}, "timeout", Verdict.NOTE, "timeout 0"),
        ({"tcp-keepalive": "0"}, {}, "tcp-keepalive", Verdict.HURTS, "tcp-keepalive 300"),
        ({"maxclients": "10"}, {}, "maxclients", Verdict.FAILS, "maxclients 10000"),
        ({"maxclients": "100"}, {"connected_clients": "90"}, "maxclients", Verdict.HURTS, "maxclients"),
        ({}, {"role": "slave", "master_host": "10.0.0.1"}, "role", Verdict.FAILS, "point the URL at 10.0.0.1"),
        (
            {"cluster-require-full-coverage": "yes"},
            {"cluster_enabled": "1"},
            "cluster-require-full-coverage",
            Verdict.HURTS,
            "cluster-require-full-coverage no",
        ),
    ],
)
def test_a_setting_that_hurts_is_named_with_what_to_do(
    config: dict[str, str], info: dict[str, str], subject: str, verdict: Verdict, advice: str
) -> None:
    finding = found(config, info)[subject]
    assert finding.verdict is verdict
    assert advice in finding.advice


def test_a_policy_for_keys_with_a_ttl_is_good_where_chunks_have_one() -> None:
    assert found({"maxmemory-policy": "volatile-lru"}, ttl=60.0)["maxmemory-policy"].verdict is Verdict.NOTE


def test_chunks_that_are_stored_whole_need_a_longer_bulk() -> None:
    assert found({"proto-max-bulk-len": str(64 << 20)})["proto-max-bulk-len"].verdict is Verdict.GOOD
    whole = found({"proto-max-bulk-len": str(64 << 20)}, whole_bytes=512 << 20)
    assert whole["proto-max-bulk-len"].verdict is Verdict.FAILS


def test_what_a_server_did_not_tell_is_said_to_be_unknown() -> None:
    facts = ServerFacts({"maxmemory": "0", "maxmemory_policy": "noeviction"}, {}, "", "the user may not use it")
    findings = {finding.subject: finding for finding in judge(facts, Demands())}
    assert findings["maxmemory"].verdict is Verdict.HURTS, "INFO tells of it as well"
    assert findings["maxmemory-policy"].verdict is Verdict.HURTS
    assert findings["settings"].verdict is Verdict.UNKNOWN
    assert "proto-max-bulk-len" in findings["settings"].found
    assert "maxmemory," not in findings["settings"].found


@pytest.mark.parametrize("value", ["", "-", "x", "9" * 40, "1e9", "٣"])
def test_a_setting_that_is_no_number_is_passed_over(value: str) -> None:
    numbers = ("maxmemory", "proto-max-bulk-len", "timeout", "tcp-keepalive", "maxclients", "io-threads")
    facts = ServerFacts({}, dict.fromkeys((*numbers, "client-output-buffer-limit", "save", "appendonly"), value))
    assert judge(facts, Demands()) is not None


def test_info_is_read_line_by_line() -> None:
    text = "# Server\r\nredis_version:7.0.15\r\nvalkey_version:9.1.2\r\nbroken\r\nos:Linux: x\r\n"
    assert fields_of(text) == {"redis_version": "7.0.15", "valkey_version": "9.1.2", "os": "Linux: x"}
    assert ServerFacts(fields_of(text)).product == "Valkey 9.1.2"


# ------------------------------------------------------------------------------------------------- several servers


def test_what_is_the_same_of_all_servers_is_said_once() -> None:
    same = Finding("maxmemory-policy", Verdict.HURTS, "noeviction", "set it")
    lost = Finding("connect", Verdict.UNUSABLE, "refused", "start it")
    [one, two] = merged({"a:1": [same], "b:1": [same], "c:1": [lost]})
    assert one == Finding("maxmemory-policy", Verdict.HURTS, "2 servers: noeviction", "set it")
    assert two.servers == ("c:1",)


def test_a_server_that_differs_is_named() -> None:
    good, bad = Finding("timeout", Verdict.GOOD, "0"), Finding("timeout", Verdict.HURTS, "30 s", "0")
    findings = merged({"a:1": [good], "b:1": [good], "c:1": [bad]})
    assert [finding.servers for finding in findings] == [("a:1", "b:1"), ("c:1",)]


PRIMARY = ("10.0.0.1", 6379)


def test_sentinels_that_are_too_few_to_fail_over_are_told() -> None:
    views = {("s", 1): ServiceView(PRIMARY, quorum=2, sentinels=3, replicas=1)}
    failures = {("s", 2): "refused", ("s", 3): "refused"}
    found = {(finding.subject, finding.verdict) for finding in judge_sentinels("kv", views, failures)}
    assert ("failover", Verdict.FAILS) in found
    assert ("sentinels", Verdict.FAILS) in found


def test_a_sentinel_alone_cannot_be_lost() -> None:
    views = {("s", 1): ServiceView(PRIMARY, quorum=1, sentinels=1, replicas=0)}
    found = {finding.subject: finding.verdict for finding in judge_sentinels("kv", views, {})}
    assert found == {"sentinels": Verdict.GOOD, "failover": Verdict.HURTS, "replicas": Verdict.HURTS}


def test_sentinels_that_do_not_agree_are_told() -> None:
    views = {
        ("s", 1): ServiceView(PRIMARY, 2, 2, 1),
        ("s", 2): ServiceView(("10.0.0.2", 6379), 2, 2, 1, is_down=True),
    }
    findings = {finding.subject: finding for finding in judge_sentinels("kv", views, {})}
    assert "they do not agree" in findings["sentinels"].found
    assert findings["primary"].servers == ("s:2",)


# ----------------------------------------------------------------------------------------------------- certificates


def test_a_certificate_that_ends_soon_hurts() -> None:
    certificate = {"notAfter": "Jan 11 00:00:00 2030 GMT", "subject": ((("commonName", "cache.example"),),)}
    now = 1893456000.0  # 2030-01-01
    finding = certificate_finding(certificate, now)
    assert finding.verdict is Verdict.HURTS
    assert finding.found == "certificate of cache.example, 10 days left"
    assert certificate_finding(certificate, now - 90 * 86_400).verdict is Verdict.GOOD
    assert certificate_finding({}, now).verdict is Verdict.HURTS, "it was not verified"
