"""What comes of placing many keys on many servers: balance, keys that move, and the time that it takes."""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from lmcache_connect.record import chunk_names
from lmcache_connect_redis.topology.placement import Address
from lmcache_connect_redis.topology.ring import Ring, owners_of
from lmcache_connect_redis.topology.slot_map import Node, Shard, SlotMap
from lmcache_connect_redis.topology.slots import SLOTS, slots_of

_ROUNDS: Final = 5
"""Of the rounds of a timing, the fastest counts: others use the machine, too."""

Groups = dict[Address, list[int]]


@dataclass(frozen=True)
class Placed:
    """Keys on servers. Shares are of an even one: 1.0 is `keys / servers`. Times are microseconds a key."""

    kind: str
    servers: int
    keys: int
    fewest: float
    most: float
    deviation: float
    """The standard deviation of the shares."""
    moved: float
    """The part of the keys that move when a server is added."""
    ideal: float
    """The part that has to: what the new server is to have."""
    moved_elsewhere: int
    """Keys that moved between servers that were there before."""
    batch_us: float
    single_us: float
    prepared_ms: float
    """Milliseconds to compute, once in a process, what placing keys needs."""


def key_names(count: int) -> list[str]:
    """Names in the store of keys as engines make them: the same model, and another digest in each."""
    keys = [
        f"vllm@meta-llama/Llama-3.1-8B@1@0@{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}" for number in range(count)
    ]
    return chunk_names("", keys)


def addresses(count: int) -> list[Address]:
    """Addresses as a deployment has them."""
    return [(f"10.0.{number // 250}.{number % 250 + 1}", 6379) for number in range(count)]


def ring(servers: int, names: Sequence[str]) -> Placed:
    """Places keys on a ring of plain servers."""
    before, after = addresses(servers), addresses(servers + 1)
    owners_of.cache_clear()
    began = time.perf_counter()
    small = Ring(before)
    prepared = time.perf_counter() - began
    large = Ring(after)
    return _placed("ring", names, before, after, small.place, large.place, small.address_of, prepared)


def cluster(servers: int, names: Sequence[str]) -> Placed:
    """Places keys on the primaries of a cluster. A node that is added takes its share of the slots from all others."""
    before, after = addresses(servers), addresses(servers + 1)
    owners = [slot * servers // SLOTS for slot in range(SLOTS)]
    grown = [owner if slot % (servers + 1) else servers for slot, owner in enumerate(owners)]
    began = time.perf_counter()
    small = _slot_map(owners, before)
    prepared = time.perf_counter() - began
    large = _slot_map(grown, after)
    single = small.primary_of
    return _placed(
        "cluster",
        names,
        before,
        after,
        lambda some: _by_slot(small, some),
        lambda some: _by_slot(large, some),
        lambda name: single(slots_of((name,))[0]),
        prepared,
    )


def _slot_map(owners: Sequence[int], nodes: Sequence[Address]) -> SlotMap:
    return SlotMap(array("H", owners), [Shard(Node(address)) for address in nodes])


def _by_slot(slots: SlotMap, names: Sequence[str]) -> Groups:
    """Groups keys as a call to a cluster does."""
    groups: dict[int, list[int]] = {}
    owner_of = slots.owner_of
    for position, slot in enumerate(slots_of(names)):
        groups.setdefault(owner_of(slot), []).append(position)
    return {slots.shards[owner].primary.address: positions for owner, positions in groups.items()}


def _placed(
    kind: str,
    names: Sequence[str],
    before: Sequence[Address],
    after: Sequence[Address],
    place: Callable[[Sequence[str]], Groups],
    place_after: Callable[[Sequence[str]], Groups],
    address_of: Callable[[str], object],
    prepared: float,
) -> Placed:
    groups, grown = place(names), place_after(names)
    even = len(names) / len(before)
    shares = [len(groups.get(address, ())) / even for address in before]
    was, new = _owners(groups, len(names)), after[-1]
    is_at = _owners(grown, len(names))
    moved = [position for position in range(len(names)) if was[position] != is_at[position]]
    some = names[:10_000]

    def one_by_one() -> None:
        for name in some:
            address_of(name)

    return Placed(
        kind=kind,
        servers=len(before),
        keys=len(names),
        fewest=min(shares),
        most=max(shares),
        deviation=statistics.pstdev(shares),
        moved=len(moved) / len(names),
        ideal=1 / len(after),
        moved_elsewhere=sum(is_at[position] != new for position in moved),
        batch_us=_fastest(lambda: place(names)) / len(names) * 1e6,
        single_us=_fastest(one_by_one) / len(some) * 1e6,
        prepared_ms=prepared * 1e3,
    )


def _owners(groups: Groups, count: int) -> list[Address]:
    owners: list[Address] = [("", 0)] * count
    for address, positions in groups.items():
        for position in positions:
            owners[position] = address
    return owners


def _fastest(job: Callable[[], object]) -> float:
    seconds: list[float] = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
