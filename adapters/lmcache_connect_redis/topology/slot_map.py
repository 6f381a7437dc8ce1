"""`SlotMap`: which nodes of a cluster have which slots, as one of the nodes told it. Never changes.

What a node tells is an untrusted server's reply. Only hosts, ports and zones are taken from it, each within bounds.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..protocol.nested import Tree
from .placement import Address
from .slots import SLOTS

NOWHERE: Final = 0xFFFF
"""What stands in place of a shard for a slot that no node has."""

_MAX_SHARDS: Final = 4096
_MAX_REPLICAS: Final = 64
_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]{1,255}")
_ZONE: Final = re.compile(r"[!-~]{1,128}")
_ZONE_FIELD: Final = b"availability-zone"


class SlotMapError(Exception):
    """A reply is not a map of slots."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster, as it is to be reached. `zone` is its availability zone; "" where the server tells none."""

    address: Address
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    """A primary, which has slots, and the replicas that have copies of what lies in them."""

    primary: Node
    replicas: tuple[Node, ...] = ()


class SlotMap:
    """Says which shard has a slot."""

    __slots__ = ("_owners", "shards")

    def __init__(self, owners: Sequence[int], shards: Sequence[Shard]) -> None:
        """`owners`: for each slot the index of its shard, or `NOWHERE`."""
        self._owners: Final = owners
        self.shards: Final = tuple(shards)

    @property
    def is_whole(self) -> bool:
        """Whether every slot has a shard."""
        return NOWHERE not in self._owners

    def shard_of(self, slot: int) -> Shard | None:
        """Returns the shard that has a slot. None where none has it."""
        index = self._owners[slot]
        return None if index == NOWHERE else self.shards[index]

    def primary_of(self, slot: int) -> Address | None:
        """Returns the primary that has a slot. None where none has it."""
        index = self._owners[slot]
        return None if index == NOWHERE else self.shards[index].primary.address

    def owner_of(self, slot: int) -> int:
        """Returns the index in `shards` of the shard that has a slot, or `NOWHERE`."""
        return self._owners[slot]

    def with_slot(self, slot: int, address: Address) -> SlotMap:
        """Returns the map in which the primary at `address` has `slot` as well."""
        shards = [*self.shards]
        index = next((at for at, shard in enumerate(shards) if shard.primary.address == address), None)
        if index is None:
            if len(shards) >= _MAX_SHARDS:
                return self
            index = len(shards)
            shards.append(Shard(Node(address)))
        elif self._owners[slot] == index:
            return self
        owners = array("H", self._owners)
        owners[slot] = index
        return SlotMap(owners, shards)

    def nodes(self) -> list[Node]:
        """Returns every node, primaries first."""
        return [shard.primary for shard in self.shards] + [node for shard in self.shards for node in shard.replicas]


def slot_map_of(tree: Tree, asked: Address) -> SlotMap:
    """Returns the map that the reply to CLUSTER SLOTS holds. A node without a host is on that of the node `asked`.

    A primary that has no address, or none that is known yet, has no slots in the map; such a replica is left out.

    Raises:
        SlotMapError: the reply is something else.
    """
    if not isinstance(tree, list):
        raise SlotMapError("the map is not an array")
    if len(tree) > SLOTS:
        raise SlotMapError(f"{len(tree)} ranges of slots; expected at most {SLOTS}")
    owners = array("H", [NOWHERE]) * SLOTS
    shards: dict[Address, Shard] = {}
    indexes: dict[Address, int] = {}
    for item in tree:
        match item:
            case [int(first), int(last), primary, *replicas] if 0 <= first <= last < SLOTS:
                pass
            case _:
                raise SlotMapError("an item is not a range of slots and its nodes")
        if len(replicas) > _MAX_REPLICAS:
            raise SlotMapError(f"{len(replicas)} replicas of one primary; expected at most {_MAX_REPLICAS}")
        node = _node_of(primary, asked)
        if node is None:
            continue
        address = node.address
        if address not in indexes:
            if len(indexes) >= _MAX_SHARDS:
                raise SlotMapError(f"more than {_MAX_SHARDS} primaries")
            indexes[address] = len(indexes)
            copies = [_node_of(replica, asked) for replica in replicas]
            shards[address] = Shard(node, tuple(copy for copy in copies if copy is not None))
        for slot in range(first, last + 1):
            if owners[slot] != NOWHERE:
                raise SlotMapError(f"slot {slot} is there twice")
            owners[slot] = indexes[address]
    return SlotMap(owners, [*shards.values()])


def address_of(host: str, port: int, asked: Address) -> Address | None:
    """Returns the address of a node that a server named. None where it names none. An empty host is the one asked.

    Raises:
        SlotMapError: it cannot be an address.
    """
    if host == "?" or port == 0:  # the node does not know it yet, or listens on no port of this kind
        return None
    host = host or asked[0]
    if _HOST.fullmatch(host) is None or not 0 < port < 1 << 16:
        raise SlotMapError("a node has no host or port that could be one")
    return (host, port)


def _node_of(tree: Tree, asked: Address) -> Node | None:
    match tree:
        case [bytes() | None as host, int(port), *rest]:
            address = address_of((host or b"").decode("ascii", "replace"), port, asked)
        case _:
            raise SlotMapError("a node is not a host and a port")
    if address is None:
        return None
    match rest:
        case [_, [*pairs], *_]:
            zone = _zone_of(dict(zip(_strings(pairs[::2]), _strings(pairs[1::2]), strict=False)))
        case _:
            zone = ""
    return Node(address, zone)


def _strings(items: Sequence[Tree]) -> list[bytes]:
    return [item if isinstance(item, bytes) else b"" for item in items]


def _zone_of(fields: Mapping[bytes, bytes]) -> str:
    zone = fields.get(_ZONE_FIELD, b"").decode("ascii", "replace")
    return zone if _ZONE.fullmatch(zone) is not None else ""
