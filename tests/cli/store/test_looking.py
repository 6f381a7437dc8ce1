"""`lmcache-connect ls`, `du` and `inspect`: they tell what is there, and change nothing."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Callable

import pytest

from lmcache_connect.metadata import ChunkMetadata
from lmcache_connect.record import PayloadHasher, chunk_names, encode_header
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, RcloneServer, ValkeyServer
from lmcache_connect.testing.servers.process import unused_port

from ..conftest import Ran, environment, url_of
from .conftest import MODEL, engine_key, fill, raw

Invoke = Callable[..., Ran]


def test_ls_names_the_keys_of_a_prefix_one_on_a_line(url: str, chunks: dict[str, bytes], invoke: Invoke) -> None:
    assert sorted(invoke("ls", url).out.splitlines()) == sorted(chunks)
    ran = invoke("ls", url, f"{MODEL}@acme@")
    assert sorted(ran.out.splitlines()) == [engine_key("acme", "aa"), engine_key("acme", "bb")]
    assert (ran.code, ran.err) == (0, "")


def test_ls_takes_a_pattern_for_the_whole_key(url: str, invoke: Invoke) -> None:
    assert sorted(invoke("ls", url, "lc1@*@aa").out.splitlines()) == [
        engine_key("acme", "aa"),
        engine_key("other", "aa"),
    ]
    assert invoke("ls", url, "lc1@*@a").out == ""


def test_ls_tells_how_long_chunks_are_and_when_they_expire(url: str, invoke: Invoke) -> None:
    lines = {line.split()[-1]: line.split() for line in invoke("ls", url, MODEL, "-l").out.splitlines()}
    assert lines[engine_key("acme", "bb")][1:4] == ["MiB", "never", "-"]
    assert lines[engine_key("other", "aa")][2:4] in (["2h", "-"], ["1h", "59m"])


def test_the_json_of_ls_is_one_document_that_is_written_as_it_comes(
    url: str, chunks: dict[str, bytes], invoke: Invoke
) -> None:
    found = json.loads(invoke("ls", url, "--json", "-l").out)
    assert sorted(each["key"] for each in found["keys"]) == sorted(chunks)
    assert (found["ok"], found["count"], found["whole"], found["left_out"]) == (True, 5, True, 0)
    assert found["store"].startswith("redis://:***@")
    [one] = [each for each in found["keys"] if each["key"] == engine_key("other", "aa")]
    assert one["expires"] is True
    assert 7000 < one["ttl"] <= 7200
    empty = json.loads(invoke("ls", url, "--json", "no such").out)
    assert (empty["keys"], empty["count"], empty["ok"]) == ([], 0, True)


def test_ls_stops_at_a_limit_and_counts(url: str, invoke: Invoke) -> None:
    assert len(invoke("ls", url, "--limit", "2").out.splitlines()) == 2
    assert json.loads(invoke("ls", url, "--limit", "2", "--json").out)["whole"] is False
    assert invoke("ls", url, "--count").out == "5\n"
    lines = invoke("ls", url, "--jsonl").out.splitlines()
    assert len([json.loads(line)["key"] for line in lines]) == 5


def test_ls_escapes_what_a_terminal_would_obey_and_counts_what_is_no_key(
    url: str, server: ValkeyServer, invoke: Invoke
) -> None:
    fill(url, {"right-to-left \u202e": b"x"})
    with server.client() as client:
        client.set("{bad\x1b[31m}\x1f2", b"no key")
    ran = invoke("ls", url)
    assert "right-to-left \\u202e" in ran.out
    assert "\x1b" not in ran.out
    assert "1 names under the prefix cannot be keys" in ran.err


def test_a_store_that_cannot_be_used_is_told_with_code_2(invoke: Invoke) -> None:
    gone = f"redis://127.0.0.1:{unused_port()}"
    for command in (["ls"], ["du"], ["inspect", "KEY"], ["rm", "KEY"], ["clear", "PREFIX", "--yes"]):
        ran = invoke(command[0], gone, *command[1:], "--json")
        assert ran.code == 2
        assert json.loads(ran.out)["error"]["type"] == "StoreUnavailableError"


def test_a_store_that_fails_in_the_middle_of_a_listing_is_told_with_code_1(
    server: ValkeyServer, proxy: FaultProxy, invoke: Invoke
) -> None:
    fill(server.url(), {f"key {number}": b"x" for number in range(3000)})
    proxy.arm(Fault(FaultKind.CLOSE, Direction.TO_CLIENT, after_bytes=40_000))
    ran = invoke("ls", url_of(proxy, "?retries=0"))
    assert 0 < len(ran.out.splitlines()) < 3000
    assert ran.code == 1
    assert "error: " in ran.err


def test_du_adds_up_by_model_tenant_and_prefix(url: str, invoke: Invoke) -> None:
    by_model = {each["name"]: each for each in json.loads(invoke("du", url, "--by", "model", "--json").out)["groups"]}
    assert set(by_model) == {"Llama-3.1-8B-Instruct", "Qwen/Qwen3", "(other)"}
    llama = by_model["Llama-3.1-8B-Instruct"]
    assert (llama["chunks"], llama["expiring"]) == (3, 1)
    assert llama["largest"] == engine_key("acme", "bb")
    assert llama["bytes"] > 5 << 20
    by_tenant = json.loads(invoke("du", url, "--by", "tenant", "--json").out)
    assert [each["name"] for each in by_tenant["groups"]] == ["acme", "other", "(other)"]
    assert by_tenant["total"]["chunks"] == 5
    by_prefix = json.loads(invoke("du", url, "lc1@", "--depth", "3", "--json").out)["groups"]
    assert [each["name"] for each in by_prefix] == [f"{MODEL}@acme@", f"{MODEL}@other@"]


def test_du_reads_at_40_columns(url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    ran = invoke("du", url, "--by", "model")
    assert "Llama-3.1-8B-Instruct" in ran.out
    assert all(len(line) <= 40 for line in ran.out.splitlines()[:-1])


def test_looking_at_a_store_counts_as_no_use_of_its_chunks(url: str, server: ValkeyServer, invoke: Invoke) -> None:
    names = chunk_names("", [engine_key("acme", "aa")])
    with server.client() as client:
        dumped = client.dump(names[0])
        assert dumped is not None
        client.restore(names[0], 0, dumped, replace=True, idletime=500)
        invoke("ls", url, "-l")
        invoke("du", url)
        assert client.object("idletime", names[0]) >= 500


def test_inspect_tells_all_of_a_record(url: str, invoke: Invoke) -> None:
    found = json.loads(invoke("inspect", url, engine_key("other", "aa"), "--json").out)
    assert found["ok"] is True
    assert found["key_parts"] == {
        "kind": "engine",
        "model": "Llama-3.1-8B-Instruct",
        "tenant": "other",
        "hash": "aa",
        "digest": "d6066f7466ec939ed23582fc97998570",
    }
    assert (found["payload"], found["payload_bytes"], found["pieces"]) == ("read", 3000, 1)
    assert found["chunk"] == {"format": "UNDEFINED", "shapes": [[3000]], "dtypes": ["uint8"]}
    assert found["checksums"][0]["xxh3"] == found["payload_xxh3"]
    shown = invoke("inspect", url, engine_key("acme", "bb")).out
    assert "a hash of pieces, 6 pieces" in shown
    assert "whole: the checksum verifies" in shown


def test_inspect_of_a_missing_key_says_so_with_code_1(url: str, invoke: Invoke) -> None:
    ran = invoke("inspect", url, "no such key")
    assert ran.code == 1
    assert "there is no such key" in ran.out
    assert json.loads(invoke("inspect", url, "no such key", "--json").out)["found"] is False


KEY = "the key"


def record(name: str) -> bytes:
    metadata = ChunkMetadata.of([(7,)], ["uint8"])
    hasher = PayloadHasher()
    hasher.update(b"payload")
    return encode_header(name, metadata) + b"payload" + hasher.trailer()


def damaged_values() -> dict[str, tuple[bytes, str]]:
    """Records that are damaged in one way each, and what is to be told of it."""
    [name] = chunk_names("", [KEY])
    whole = bytearray(record(name))
    flipped, header, other = bytearray(whole), bytearray(whole), bytearray(whole)
    flipped[-10] ^= 1
    header[9] ^= 1
    other = bytearray(record("another name"))
    newer = bytearray(whole)
    newer[4] = 9
    return {
        "payload": (bytes(flipped), "(checksum)"),
        "header": (bytes(header), "(header)"),
        "short": (bytes(whole[:-3]), "(length)"),
        "other key": (bytes(other), "(key)"),
        "newer": (bytes(newer), "(version)"),
        "foreign": (b"<html>", "(short)"),
        "text": (b"another program's value", "(magic)"),
    }


@pytest.mark.parametrize("damage", damaged_values())
def test_a_damaged_record_is_described_and_stays(damage: str, server: ValkeyServer, invoke: Invoke) -> None:
    value, told = damaged_values()[damage]
    [name] = chunk_names("", [KEY])
    with server.client() as client:
        client.set(name, value)
        ran = invoke("inspect", server.url(), KEY)
        assert ran.code == 1
        assert "damaged" in ran.out
        assert told in ran.out
        assert client.get(name) == value


def test_a_piece_that_is_missing_and_one_that_is_damaged_are_named(
    url: str, server: ValkeyServer, invoke: Invoke
) -> None:
    key = engine_key("acme", "bb")
    [name] = chunk_names("", [key])
    with server.client() as client:
        client.hdel(name, "2")
        piece = raw(client, name, "4")
        piece[9] ^= 1
        client.hset(name, "4", bytes(piece))
    found = json.loads(invoke("inspect", url, key, "--json", "--no-payload").out)
    assert found["missing_pieces"] == [2]
    assert any(problem.startswith("piece 4: ") for problem in found["problems"])
    assert "missing: piece 2 of 6" in found["problems"]


def test_a_half_of_lmcache_s_two_values_is_told(server: ValkeyServer, invoke: Invoke) -> None:
    url = server.url(options={"layout": "lmcache"})
    fill(url, {KEY: b"x" * 100})
    assert "LMCache's two values" in invoke("inspect", url, KEY).out
    with server.client() as client:
        client.delete(KEY + "kv_bytes")
    ran = invoke("inspect", url, KEY)
    assert ran.code == 1
    assert "its payload is missing" in ran.out


def test_the_commands_look_at_s3_as_well(rclone_server: RcloneServer, chunks: dict[str, bytes], invoke: Invoke) -> None:
    url = rclone_server.url(prefix=secrets.token_hex(4))
    fill(url, chunks)
    assert sorted(invoke("ls", url).out.splitlines()) == sorted(chunks)
    found = json.loads(invoke("inspect", url, engine_key("acme", "bb"), "--json").out)
    assert (found["ok"], found["form"], found["payload_bytes"]) == (True, "one object", 5 << 20)
    assert found["age"] < 60
    assert json.loads(invoke("du", url, "--json").out)["total"]["bytes"] > 5 << 20


def test_a_chunk_that_is_larger_than_the_memory_is_told(url: str, invoke: Invoke) -> None:
    found = json.loads(invoke("inspect", url, engine_key("acme", "bb"), "--memory", "1MiB", "--json").out)
    assert (found["ok"], found["payload"]) == (True, "too large")
    assert "--memory" in found["payload_detail"]


def test_a_listing_that_nobody_reads_to_its_end_ends_as_a_pipe_does(url: str) -> None:
    fill(url, {f"{number:04} {'k' * 200}": b"x" for number in range(2000)})
    command = [sys.executable, "-m", "lmcache_connect.cli.main", "ls", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (141, b"")
