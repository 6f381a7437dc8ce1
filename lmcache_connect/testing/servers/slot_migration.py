"""`SlotMigration`: slots of a cluster on their way from one primary to another, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from typing import Final

from .redis import StoreServer, TLSServer
from .server_group import ask, ask_all

SLOTS: Final = 16_384
"""How many slots a cluster has."""

_KEYS_AT_ONCE: Final = 100
_MIGRATE_TIMEOUT: Final = 5_000  # milliseconds


class SlotMigration:
    """Slots between two primaries, as `redis-cli --cluster reshard` moves them. `ClusterServers` makes it.

    While a slot is on its way, `source` answers for the keys that it still has, and sends clients to `target` for the
    others (ASK). A command with keys of both kinds gets TRYAGAIN.
    """

    def __init__(
        self,
        slots: Sequence[int],
        source: StoreServer,
        target: StoreServer,
        ids: tuple[str, str],
        others: Sequence[StoreServer],
    ) -> None:
        """`ids`: of the source and the target in the cluster. `others`: the other primaries."""
        self.slots = tuple(slots)
        self.source = source
        self.target = target
        self._ids = ids
        self._others = others

    def begin(self) -> None:
        """Makes the slots IMPORTING at the target, and MIGRATING at the source."""
        source_id, target_id = self._ids
        self._set(self.target, "IMPORTING", source_id)
        self._set(self.source, "MIGRATING", target_id)

    def keys(self) -> list[bytes]:
        """The names of the keys that the source still has in the slots."""
        questions = [("CLUSTER", "GETKEYSINSLOT", slot, 1_000_000) for slot in self.slots]
        answers = ask_all(self.source, questions)
        return [name for names in answers if isinstance(names, list) for name in names]

    def move_keys(self, names: Iterable[bytes | str] | None = None) -> None:
        """Moves these keys, or all that the source has in the slots."""
        moved = self.keys() if names is None else list(names)
        to, password = self.target, self.target.password
        port = to.tls_port if isinstance(to, TLSServer) and to.tls else to.port  # nodes with TLS talk TLS
        login = () if password is None else ("AUTH", password)
        # A command has keys of one slot.
        for _, names_of_slot in groupby(sorted(moved, key=slot_of), key=slot_of):
            while some := list(islice(names_of_slot, _KEYS_AT_ONCE)):
                ask(self.source, "MIGRATE", to.host, port, "", 0, _MIGRATE_TIMEOUT, "REPLACE", *login, "KEYS", *some)

    def finish(self) -> None:
        """Moves what is left, makes the target the owner of the slots, and tells the other primaries."""
        while self.keys():
            self.move_keys()
        # The target first: an owner that gave a slot away before anybody has it would send clients in a circle.
        for node in (self.target, self.source, *self._others):
            self._set(node, "NODE", self._ids[1])

    def run(self) -> None:
        """Moves the slots from the first step to the last. Valkey 9 and newer go on with it after this has returned."""
        import redis.exceptions

        ranges = [number for first_last in _ranges(self.slots) for number in first_last]
        try:
            ask(self.source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *ranges, "NODE", self._ids[1])
        except redis.exceptions.ResponseError as error:
            if "unknown subcommand" not in str(error).casefold():
                raise
            self.begin()
            self.finish()

    def cancel(self) -> None:
        """Leaves the slots where they are. Keys that were moved stay at the target, where nobody finds them."""
        self._set(self.source, "STABLE")
        self._set(self.target, "STABLE")

    def _set(self, node: StoreServer, *state: str) -> None:
        ask_all(node, [("CLUSTER", "SETSLOT", slot, *state) for slot in self.slots])


def slot_of(key: str | bytes) -> int:
    """The slot of a key, as redis-py computes it."""
    from redis.crc import key_slot

    return key_slot(key.encode() if isinstance(key, str) else key)


def _ranges(slots: Iterable[int]) -> list[tuple[int, int]]:
    """The first and the last slot of each run of neighbours."""
    # What stays the same from one neighbour to the next is the distance of a slot from its place in the list.
    runs = groupby(enumerate(sorted(slots)), key=lambda place_slot: place_slot[1] - place_slot[0])
    found = ([slot for _, slot in run] for _, run in runs)
    return [(run[0], run[-1]) for run in found]
