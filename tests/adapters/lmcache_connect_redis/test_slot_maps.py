"""Which node of a cluster has a key, as the key's name and a node's reply say."""

from __future__ import annotations

import asyncio
from binascii import crc_hqx

import pytest

from lmcache_connect.errors import StoreProtocolError
from lmcache_connect.record import chunk_names, staging_name
from lmcache_connect.testing import ScriptedWire
from lmcache_connect_redis.protocol.connection import Connection
from lmcache_connect_redis.protocol.nested import Tree, read_nested
from lmcache_connect_redis.protocol.redirects import Redirect, redirect_of
from lmcache_connect_redis.protocol.replies import reply_error
from lmcache_connect_redis.topology.slot_map import SlotMap, SlotMapError, slot_map_of
from lmcache_connect_redis.topology.slots import SLOTS, slot_of

ASKED = ("asked", 7000)
ID = b"0" * 40


def node(host: bytes | None, port: int, *pairs: bytes) -> Tree:
    return [host, port, ID, [*pairs]]


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("foo", 12_182),
        ("123456789", 0x31C3),
        ("{user1000}.following", slot_of("user1000")),
        ("foo{{bar}}zap", slot_of("{bar")),
        ("foo{bar}{zap}", slot_of("bar")),
    ],
)
def test_the_slot_of_a_key_is_that_of_what_its_first_braces_hold(name: str, slot: int) -> None:
    assert slot_of(name) == slot


@pytest.mark.parametrize("name", ["foo{}{bar}", "foo{bar", "foo}bar", "{}"])
def test_braces_that_hold_nothing_hide_nothing(name: str) -> None:
    assert slot_of(name) == crc_hqx(name.encode(), 0) % SLOTS


@pytest.mark.parametrize("prefix", ["", "team/a:"])
@pytest.mark.parametrize("key", ["k", "a{b}c", "}{", "{", "vllm@llama@1@0@ab@bf16", "ключ"])
def test_a_chunk_and_its_pieces_on_the_way_lie_in_one_slot(key: str, prefix: str) -> None:
    [name] = chunk_names(prefix, [key])
    assert slot_of(staging_name(name)) == slot_of(name)


def test_a_map_says_who_has_a_slot() -> None:
    slots = slot_map_of(
        [
            [0, 99, node(b"10.0.0.1", 1, b"availability-zone", b"eu-1a"), node(b"10.0.0.2", 2)],
            [200, SLOTS - 1, node(b"h.example", 3, b"hostname", b"h.example")],
            [100, 149, node(b"10.0.0.1", 1, b"availability-zone", b"eu-1a"), node(b"10.0.0.2", 2)],
        ],
        ASKED,
    )
    first = slots.shard_of(149)
    assert first is not None
    assert first.primary.address == ("10.0.0.1", 1)
    assert first.primary.zone == "eu-1a"
    assert [replica.address for replica in first.replicas] == [("10.0.0.2", 2)]
    assert len(slots.shards) == 2
    assert slots.shard_of(150) is None
    assert not slots.is_whole


@pytest.mark.parametrize("host", [b"", None])
def test_a_node_without_a_host_is_on_that_of_the_node_that_was_asked(host: bytes | None) -> None:
    shard = slot_map_of([[0, SLOTS - 1, node(host, 7001)]], ASKED).shard_of(5)
    assert shard is not None
    assert shard.primary.address == ("asked", 7001)


@pytest.mark.parametrize("nameless", [node(b"?", 7001), node(b"10.0.0.9", 0)])
def test_a_node_that_has_no_address_yet_is_nowhere(nameless: Tree) -> None:
    slots = slot_map_of([[0, 9, nameless], [10, 19, node(b"10.0.0.1", 1), nameless]], ASKED)
    shard = slots.shard_of(10)
    assert shard is not None
    assert shard.replicas == ()
    assert slots.shard_of(0) is None


def test_a_release_that_tells_no_names_of_nodes_is_understood() -> None:
    shard = slot_map_of([[0, SLOTS - 1, [b"10.0.0.1", 1], [b"10.0.0.2", 2]]], ASKED).shard_of(0)
    assert shard is not None
    assert shard.primary.zone == ""
    assert len(shard.replicas) == 1


@pytest.mark.parametrize(
    "tree",
    [
        None,
        7,
        b"OK",
        [b"x"],
        [[0, 1]],
        [[0]],
        [[5, 4, node(b"10.0.0.1", 1)]],
        [[-1, 4, node(b"10.0.0.1", 1)]],
        [[0, SLOTS, node(b"10.0.0.1", 1)]],
        [[0, 9, node(b"10.0.0.1", 1)], [9, 10, node(b"10.0.0.2", 2)]],
        [[0, 9, node(b"10.0.0.1", 65_536)]],
        [[0, 9, node(b"10.0.0.1\r\nAUTH", 1)]],
        [[0, 9, node(b"h" * 256, 1)]],
        [[0, 9, [b"10.0.0.1"]]],
        [[0, 9, node(b"10.0.0.1", 1), *[node(b"10.0.0.2", 2)] * 65]],
        [[0, 9, node(b"10.0.0.1", 1), b"replica"]],
        [[0, 9, node(b"?", 0)]] * (SLOTS + 1),
    ],
)
def test_what_is_no_map_is_refused(tree: Tree) -> None:
    with pytest.raises(SlotMapError):
        slot_map_of(tree, ASKED)


def test_a_zone_that_is_no_word_is_none() -> None:
    tree: Tree = [[0, 9, node(b"10.0.0.1", 1, b"availability-zone", b"a b\n"), [b"10.0.0.2", 2, ID, [7, 8, b"odd"]]]]
    shard = slot_map_of(tree, ASKED).shard_of(0)
    assert shard is not None
    assert (shard.primary.zone, shard.replicas[0].zone) == ("", "")


def test_what_a_redirect_tells_makes_another_map() -> None:
    before = slot_map_of([[0, SLOTS - 1, node(b"10.0.0.1", 1)]], ASKED)
    after = before.with_slot(5, ("10.0.0.9", 9))
    assert primary_of(before, 5) == ("10.0.0.1", 1)
    assert primary_of(after, 5) == ("10.0.0.9", 9)
    assert primary_of(after, 6) == ("10.0.0.1", 1)
    assert after.with_slot(5, ("10.0.0.9", 9)) is after


def primary_of(slots: SlotMap, slot: int) -> tuple[str, int]:
    shard = slots.shard_of(slot)
    assert shard is not None
    return shard.primary.address


@pytest.mark.parametrize(
    ("line", "kind", "target"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect.MOVED, ("127.0.0.1", 6381)),
        ("ASK 0 node-1.example:7000", Redirect.ASK, ("node-1.example", 7000)),
        ("MOVED 16383 2001:db8::1:6381", Redirect.MOVED, ("2001:db8::1", 6381)),
        ("MOVED 3999 :6381", Redirect.MOVED, ("", 6381)),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Redirect.TRYAGAIN, ("", 0)),
        ("CLUSTERDOWN The cluster is down", Redirect.CLUSTERDOWN, ("", 0)),
    ],
)
def test_a_redirect_names_a_node(line: str, kind: Redirect, target: tuple[str, int]) -> None:
    redirected = redirect_of(reply_error("s", line), line)
    assert redirected is not None
    assert (redirected.kind, redirected.host, redirected.port) == (kind, *target)


@pytest.mark.parametrize(
    "line",
    [
        "MOVED",
        "MOVED 3999",
        "MOVED 16384 127.0.0.1:6381",
        "MOVED -1 127.0.0.1:6381",
        "MOVED 3999 127.0.0.1:65536",
        "MOVED 3999 127.0.0.1:0",
        "MOVED 3999 127.0.0.1:6381 AUTH",
        f"ASK 1 {'h' * 256}:6381",
        "ASK 1 a/../b:6381",
        "MOVED 3999 unix@host:6381",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "ERR MOVED 3999 127.0.0.1:6381",
    ],
)
def test_what_names_no_node_is_no_redirect(line: str) -> None:
    assert redirect_of(reply_error("s", line), line) is None


@pytest.mark.asyncio
@pytest.mark.parametrize("begins", [b"+", b"$100\r\n"], ids=["status", "string"])
async def test_what_a_nested_reply_holds_counts_whatever_its_kind(begins: bytes) -> None:
    item = begins + b"x" * 100 + b"\r\n"
    for limit, item_limit in ((1 << 20, 99), (5_000, 100)):
        stream = ScriptedWire(b"*100\r\n" + item * 100).loop_stream()
        with pytest.raises(StoreProtocolError):
            await read_nested(Connection(stream, "store"), limit, item_limit, 1)


@pytest.mark.asyncio
async def test_a_long_map_leaves_the_event_loop_to_others() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    wire = ScriptedWire(b"*10000\r\n" + b":1\r\n" * 10_000)  # which is there already, in one piece
    stream = wire.loop_stream()
    task = asyncio.create_task(others())
    try:
        assert await read_nested(Connection(stream, "store"), 1 << 20, 10, 1, gives_way=True) == [1] * 10_000
    finally:
        task.cancel()
        stream.close()
    assert turns >= 10
