"""`diagnose_cluster`: the slots of a cluster, and each of its nodes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.contract import Finding, Verdict

from ..topology.cluster import Cluster
from ..topology.data_nodes import shown
from ..topology.placement import Address
from ..topology.single import SingleServer
from ..topology.slot_map import SlotMap
from ..topology.slots import SLOTS, slot_of
from .demands import Demands
from .replicas import diagnose_replicas
from .server import diagnose_server
from .several import diagnose_side_by_side

_TRIES: Final = 200_000
"""Tags that are tried until one lies in a slot of a node, which may have one slot alone."""


async def diagnose_cluster(
    cluster: Cluster,
    server_at: Callable[[Address], SingleServer],
    demands: Demands,
    timeout: float,
) -> AsyncIterator[Finding]:
    """Yields which slots are served and how each node is. Each step ends within `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            slots = await cluster.renewed()
    except StoreError as error:
        yield Finding("cluster", Verdict.UNUSABLE, error.message, "see the nodes that the URL names")
        return
    except TimeoutError:
        found = f"no node of the cluster answers within {timeout:g} s"
        yield Finding("cluster", Verdict.UNUSABLE, found, "see whether the nodes run and can be reached")
        return
    for finding in judge_slots(slots):
        yield finding
    primaries = [shard.primary.address for shard in slots.shards]
    diagnoses = {
        shown(each): partial(diagnose_server, server_at(each), demands, timeout, tag=_tag_of(slots, each))
        for each in primaries
    }
    for finding in await diagnose_side_by_side(diagnoses, all_needed=True):
        yield finding
    replicas = {shown(node.address): node.address for shard in slots.shards for node in shard.replicas}
    for finding in await diagnose_replicas({name: server_at(each) for name, each in replicas.items()}, timeout):
        yield finding


def judge_slots(slots: SlotMap) -> Iterator[Finding]:
    """Yields what is to be said of a map of slots."""
    served = sum(slots.shard_of(slot) is not None for slot in range(SLOTS))
    found = f"{served} of {SLOTS} slots are served, by {len(slots.shards)} primaries"
    if served < SLOTS:
        advice = "see CLUSTER NODES; start the nodes that are down, or assign the slots: redis-cli --cluster fix"
        yield Finding("cluster", Verdict.FAILS, f"{found}: chunks in the others are misses", advice)
    else:
        yield Finding("cluster", Verdict.GOOD, found)
    alone = tuple(shown(shard.primary.address) for shard in slots.shards if not shard.replicas)
    if alone:
        found = "primaries without a replica: their slots are lost with them"
        named = alone if len(alone) < len(slots.shards) else ()
        yield Finding("replicas", Verdict.NOTE, found, "add replicas, where a lost share of the cache hurts", named)


def _tag_of(slots: SlotMap, address: Address) -> str:
    """Returns what stands in the braces of names that lie on a node; "" where it has no slot."""
    for _ in range(_TRIES):
        tag = f"{random.getrandbits(64):x}"
        if slots.primary_of(slot_of(tag)) == address:
            return tag
    return ""
