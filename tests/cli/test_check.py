"""`lmcache-connect check`, against real stores."""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from rich.console import Console

from lmcache_connect import ConnectorAdapter, ConnectorContext, Key, MemoryObj, RemoteConnector, register_adapter
from lmcache_connect.cli.check.check import run_check
from lmcache_connect.cli.check.table import FindingLines
from lmcache_connect.contract import Finding, Verdict
from lmcache_connect.manager import default_registry
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, RcloneServer, ValkeyServer
from lmcache_connect.testing.servers.process import unused_port
from lmcache_reference_connectors.memory import MemoryConnector

from .conftest import CANARY, Ran, run, url_of

HIDDEN = quote(CANARY, safe="")
SMALL = ("check", "--max-bytes", "8MiB")
"""With a smaller large chunk, which takes less time."""

GOOD_CONFIG = {"maxmemory-policy": "allkeys-lru"}


@pytest.fixture(scope="module")
def well_set() -> Iterator[ValkeyServer]:
    """A server whose settings are those of a cache."""
    with ValkeyServer(password=CANARY, maxmemory="512mb", config=GOOD_CONFIG) as started:
        yield started


def verdicts(ran: Ran) -> dict[str, str]:
    return {finding["subject"]: finding["verdict"] for finding in json.loads(ran.out)["findings"]}


def names_in(server: ValkeyServer) -> list[bytes]:
    with server.client() as client:
        return list(client.scan_iter())


# --------------------------------------------------------------------------------------------------- what is good


def test_a_store_that_is_as_it_should_be_is_good_and_left_as_it_was(
    well_set: ValkeyServer, invoke: Callable[..., Ran]
) -> None:
    ran = invoke("check", well_set.url())
    assert ran.code == 0, ran.out
    assert ran.err == ""
    lines = ran.out.splitlines()
    assert "ok      login: as the default user" in lines
    assert "ok      maxmemory-policy: allkeys-lru" in lines
    assert any(line.startswith("ok      striping: 32 MiB in pieces of 1 MiB: put, found, read back") for line in lines)
    assert lines[-1].startswith(f"redis://:***@127.0.0.1:{well_set.port}: ")
    assert names_in(well_set) == []


def test_a_store_without_servers_is_tried_by_its_calls(invoke: Callable[..., Ran]) -> None:
    ran = invoke(*SMALL, "--json", "memory://check")
    assert ran.code == 0
    assert set(verdicts(ran).values()) == {"good"}
    assert "batch with a hole" in verdicts(ran)


def test_a_bucket_is_tried_request_by_request(rclone_server: RcloneServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke("check", "--json", "--max-bytes", "1MiB", rclone_server.url("check/one"))
    assert ran.code == 0, ran.out
    found = verdicts(ran)
    for subject in ("clock", "bucket", "PutObject", "GetObject", "ranges", "multipart", "AbortMultipartUpload"):
        assert found[subject] == "good"
    assert found["DeleteObject If-Match"] == "note", "rclone ignores If-Match"


def test_behind_a_hot_cache_the_store_itself_is_read(well_set: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke(*SMALL, "--json", f"hot+{well_set.url()}")
    assert ran.code == 0, ran.out
    assert verdicts(ran)["maxmemory"] == "good", "the connector inside tells of its server"
    assert verdicts(ran)["write"] == "good"


# ----------------------------------------------------------------------------------------------------- what hurts


def test_settings_that_hurt_are_named_with_the_value_to_set(server: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke(*SMALL, server.url())
    assert ran.code == 1
    assert "hurts   maxmemory: 0, no limit: the system ends a server that takes all memory -> CONFIG SET" in ran.out
    assert "-> CONFIG SET maxmemory-policy allkeys-lru (or allkeys-lfu)" in ran.out


def test_a_server_that_drops_puts_is_not_green(invoke: Callable[..., Ran]) -> None:
    with ValkeyServer(maxmemory="12mb") as full:
        ran = invoke("check", "--json", "--anyway", full.url())
        assert ran.code == 1
        found = verdicts(ran)
        assert found["striping"] == "fails"
        assert found["maxmemory-policy"] == "hurts"
        assert names_in(full) == []


def test_a_server_without_any_room_is_full_and_lacks_no_command(invoke: Callable[..., Ran]) -> None:
    with ValkeyServer(maxmemory="64kb") as full:
        ran = invoke("check", full.url())
        assert ran.code == 1
        assert "fails   SET HSET SADD: the server's maxmemory is reached" in ran.out
        assert "RENAME" not in ran.out.replace("PERSIST RENAME", "")
        assert "allow +" not in ran.out
        assert names_in(full) == []


def test_a_full_store_evicts_no_chunks_of_others_for_a_check(invoke: Callable[..., Ran]) -> None:
    with ValkeyServer(maxmemory="24mb", config=GOOD_CONFIG) as full, full.client() as client:
        for number in range(16):
            client.set(f"theirs-{number}", b"x" * (1 << 20))
        ran = invoke("check", full.url())
        assert ran.code == 0, ran.out
        assert "unknown striping: not tried: the store has room for" in ran.out
        assert client.dbsize() == 16
        assert client.info("stats")["evicted_keys"] == 0


def test_a_user_who_may_not_do_all_is_told_what_is_missing(well_set: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    rights = ("+exists", "+get", "+set", "+del", "+scan")
    with well_set.client() as client:
        client.execute_command("ACL", "SETUSER", "kv", "reset", "on", f">{CANARY}", "~tenant:*", "-@all", *rights)
    url = f"redis://kv:{HIDDEN}@127.0.0.1:{well_set.port}?prefix=tenant"
    ran = invoke(*SMALL, url)
    assert ran.code == 1
    assert "HSET HGET HLEN PEXPIRE PERSIST RENAME MULTI: the user may not use it -> allow +hset +hget" in ran.out
    assert (
        "unknown settings: CONFIG GET: the user may not use it; not looked at: maxmemory, maxmemory-policy" in ran.out
    )
    assert "ok      remove: all that was written is gone" in ran.out
    elsewhere = invoke(*SMALL, "--json", url.replace("tenant", "another"))
    assert elsewhere.code == 1
    assert verdicts(elsewhere)["SET"] == "fails"
    assert "may not touch keys of this prefix" in elsewhere.out


def test_the_user_that_the_documentation_gives_may_do_all_that_is_tried(
    well_set: ValkeyServer, invoke: Callable[..., Ran]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text("utf-8")
    [rules] = re.findall(r"^ACL SETUSER kv on >password (.*)$", page, re.MULTILINE)
    with well_set.client() as client:
        client.execute_command("ACL", "SETUSER", "kv", "reset", "on", f">{CANARY}", *rules.split())
    ran = invoke(*SMALL, "--json", f"redis://kv:{HIDDEN}@127.0.0.1:{well_set.port}?prefix=tenant")
    assert ran.code == 0, ran.out
    assert {subject for subject, verdict in verdicts(ran).items() if verdict == "note"} == set()


# ------------------------------------------------------------------------------------------ what cannot be used


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"redis://:{HIDDEN}@127.0.0.1:{{port}}", "fails   connect: cannot connect to 127.0.0.1:{port}"),
        (f"redis://:{HIDDEN}@no-such-host.invalid", "fails   name resolution: 'no-such-host.invalid' cannot be"),
        (f"redis-ring://:{HIDDEN}@127.0.0.1:{{port}}", "fails   connect: cannot connect"),
        (f"redis-cluster://:{HIDDEN}@127.0.0.1:{{port}}", "fails   cluster: cannot connect"),
        (f"redis-sentinel://:{HIDDEN}@127.0.0.1:{{port}}/kv", "fails   sentinels: cannot connect"),
        (f"s3://kv?endpoint=http://127.0.0.1:{{port}}&access_key=a&secret_key={HIDDEN}", "fails   connect: cannot"),
    ],
)
def test_a_store_that_is_not_there_ends_the_check(invoke: Callable[..., Ran], url: str, said: str) -> None:
    port = unused_port()
    ran = invoke("check", "--timeout", "2s", url.format(port=port))
    assert ran.code == 2
    assert said.format(port=port) in ran.out
    assert ran.out.splitlines()[-1].endswith("; the store cannot be used")


def test_a_wrong_password_is_named_and_not_shown(server: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke("check", "--json", f"redis://:{HIDDEN}-wrong@127.0.0.1:{server.port}")
    found = json.loads(ran.out)
    assert ran.code == 2
    assert found["ok"] is False
    assert found["error"]["message"].startswith("login: the user or the password is wrong")
    assert verdicts(ran) == {"connect": "good", "login": "unusable"}


def test_a_store_that_stands_still_costs_the_timeout(proxy: FaultProxy, invoke: Callable[..., Ran]) -> None:
    proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT))
    started = time.monotonic()
    ran = invoke("check", "--timeout", "300ms", url_of(proxy))
    assert ran.code == 2
    assert "the server takes the connection and does not answer within 0.3 s" in ran.out
    assert time.monotonic() - started < 3


# ------------------------------------------------------------------------------------- connectors of other authors


class Forgetful(MemoryConnector):
    """Says that it stores chunks, and drops them."""

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        return None


class Telling(MemoryConnector):
    """Tells of its store."""

    async def diagnose(self, timeout: float) -> AsyncIterator[Finding]:
        yield Finding("disk", Verdict.HURTS, "9 of 10 GB used\x1b[2J", "free some")
        if timeout < 1:
            await asyncio.sleep(3600)


@pytest.fixture
def foreign() -> Iterator[None]:
    class Adapter(ConnectorAdapter):
        schemes = ("forgetful", "telling")

        def create_connector(self, context: ConnectorContext) -> RemoteConnector:
            kind = Forgetful if context.url.startswith("forgetful") else Telling
            return kind(context.url, context.local_cpu_backend)

    register_adapter(Adapter)
    yield
    for scheme in Adapter.schemes:
        default_registry.unregister(scheme)


@pytest.mark.usefixtures("foreign")
def test_a_connector_that_drops_what_is_put_is_found_out(invoke: Callable[..., Ran]) -> None:
    ran = invoke(*SMALL, "forgetful://store")
    assert ran.code == 1
    assert "fails   write: a chunk was put, and the store says that it is not there" in ran.out


@pytest.mark.usefixtures("foreign")
def test_a_connector_may_tell_of_its_store(invoke: Callable[..., Ran]) -> None:
    ran = invoke(*SMALL, "audit+telling://store")
    assert ran.code == 1
    assert "hurts   disk: 9 of 10 GB used\\x1b[2J -> free some" in ran.out


@pytest.mark.usefixtures("foreign")
def test_a_connector_that_stops_telling_is_not_waited_for(invoke: Callable[..., Ran]) -> None:
    ran = invoke(*SMALL, "--timeout", "100ms", "telling://store")
    assert ran.code == 1
    assert "fails   diagnosis: the connector told nothing for 0.5 s" in ran.out
    assert "ok      remove: all that was written is gone" in ran.out


# ------------------------------------------------------------------------------------------------------- printing


def test_a_check_that_is_cancelled_leaves_nothing_in_the_store(well_set: ValkeyServer) -> None:
    async def interrupted() -> None:
        task = asyncio.current_task()
        assert task is not None

        def stop(finding: Finding) -> None:
            if finding.subject == "striping":
                task.cancel()

        await run_check(well_set.url(), on_finding=stop)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted())
    assert names_in(well_set) == []


def test_piped_output_has_neither_signs_nor_colours_nor_broken_lines(well_set: ValkeyServer) -> None:
    ran = run("check", "--max-bytes", "1MiB", env={"LMCACHE_CONNECT_URL": well_set.url(), "COLUMNS": ""})
    assert ran.code == 0
    assert ran.out.isascii()
    assert "\x1b" not in ran.out
    assert all(line.startswith(("ok      ", "note    ")) for line in ran.out.splitlines()[:-1])


@pytest.mark.parametrize("width", [40, 80, 200])
def test_on_a_terminal_every_line_fits_and_begins_with_a_sign_or_an_indent(width: int) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    console = Console(file=out, force_terminal=True, width=width, color_system=None, highlight=False)
    lines = FindingLines(console, out)
    for verdict in Verdict:
        lines.print(Finding("maxmemory", verdict, "words " * 20, "advice " * 20, ("127.0.0.1:6379",)))
    out.seek(0)
    for line in out.read().splitlines():
        assert len(line) <= width
        assert line[:2] in {"✓ ", "· ", "? ", "! ", "✗ ", "  "}
