"""`SlotMigration`: slots of a cluster on their way from one primary to another, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from .redis import RedisServer, StoreServer
from .server_group import ask_all

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
        port = to.tls_port if isinstance(to, RedisServer) and to.tls else to.port  # nodes with TLS talk TLS
        login = () if password is None else ("AUTH", password)
        for start in range(0, len(moved), _KEYS_AT_ONCE):
            some = moved[start : start + _KEYS_AT_ONCE]
            command = ("MIGRATE", to.host, port, "", 0, _MIGRATE_TIMEOUT, "REPLACE", *login, "KEYS", *some)
            ask_all(self.source, [command])

    def finish(self) -> None:
        """Moves what is left, makes the target the owner of the slots, and tells the other primaries."""
        while self.keys():
            self.move_keys()
        # The target first: an owner that gave a slot away before anybody has it would send clients in a circle.
        for node in (self.target, self.source, *self._others):
            self._set(node, "NODE", self._ids[1])

    def run(self) -> None:
        """Moves the slots from the first step to the last."""
        self.begin()
        self.finish()

    def cancel(self) -> None:
        """Leaves the slots where they are. Keys that were moved stay at the target, where nobody finds them."""
        self._set(self.source, "STABLE")
        self._set(self.target, "STABLE")

    def _set(self, node: StoreServer, *state: str) -> None:
        ask_all(node, [("CLUSTER", "SETSLOT", slot, *state) for slot in self.slots])
