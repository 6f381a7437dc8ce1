"""`ClusterServers`: a Valkey or Redis Cluster of real processes, for tests that kill, move, add and forget nodes.

with ClusterServers() as cluster:
    ...  # something that is given cluster.url()
    cluster.kill(cluster.owner_of("some key"))
    cluster.wait_until_healthy()
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from ...errors import InvalidArgumentError
from .cluster_view import ClusterView, Ranges
from .process import NotReadyError, ServerProcess
from .redis import StoreServer, TLSServer, ValkeyServer
from .server_group import (
    HEALTH_DEADLINE,
    ServerGroup,
    ask,
    ask_all,
    fields_of,
    flush_with_replicas,
    side_by_side,
    text_of,
)
from .slot_migration import SLOTS, SlotMigration, slot_of

_DIRECTIVES: Final = {
    "cluster-enabled": "yes",
    "cluster-config-file": "nodes.conf",
    # While one primary is away, the others go on serving.
    "cluster-require-full-coverage": "no",
    "cluster-allow-replica-migration": "no",
    # A replica takes over however long it had no link: the tests decide when it is far behind.
    "cluster-replica-validity-factor": "0",
}


class ClusterServers(ServerGroup):
    """Primaries with replicas. Without TLS it is up in 2 to 3 seconds: a new primary waits 2 s until it serves.

    A primary that is killed is replaced by its replica about `node_timeout` and one second later.

    Args:
        kind: the class of the servers: Valkey, or a Redis.
        password: for the default user of every server; None: no password.
        tls: whether the nodes speak TLS, to each other, too.
        config: further settings of every server, by name.
        primaries: how many; at least three, because a majority of them decides on a failover.
        replicas_each: how many replicas each of them has.
        node_timeout: seconds of silence after which the nodes call one of them failed.
    """

    product = "cluster"
    schemes = ("redis-cluster", "valkey-cluster", "rediss-cluster", "valkeys-cluster")

    def __init__(
        self,
        kind: type[ValkeyServer] | type[TLSServer] = ValkeyServer,
        *,
        primaries: int = 3,
        replicas_each: int = 1,
        node_timeout: float = 1.0,
        password: str | None = None,
        tls: bool = False,
        config: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(kind, password=password, tls=tls, config=config)
        if primaries < 3:
            raise InvalidArgumentError("primaries", f"{primaries} cannot agree on a failover; expected at least 3")
        self._node_timeout = node_timeout
        self._first_primaries = primaries
        self._nodes = [self._new_node() for _ in range(primaries * (1 + replicas_each))]
        self._ids: dict[StoreServer, str] = {}

    @property
    def servers(self) -> tuple[StoreServer, ...]:
        return tuple(self._nodes)

    def url(self, scheme: str = "redis-cluster", *, options: Mapping[str, str] | None = None) -> str:
        """The cluster's URL, which names every node, with the password and the options percent-encoded.

        Args:
            scheme: `redis-cluster` or `valkey-cluster`; `rediss-cluster` or `valkeys-cluster` for TLS.
            options: appended as the query.

        Raises:
            InvalidArgumentError: an unknown scheme, or TLS of a cluster made without it.
            ServerNotRunningError: the cluster was never started.
        """
        return self._url(scheme, self._nodes, options)

    # ------------------------------------------------------------------------------------------------ who is who

    def nodes(self) -> tuple[StoreServer, ...]:
        """Every node, whether it is running or not; the primaries of the start first."""
        return self.servers

    def primaries(self) -> list[StoreServer]:
        """The running primaries that own slots, by the first slot of each."""
        view = self.view()
        owners = {view.slots_of(self._ids[node]): node for node in self._running() if view.slots_of(self._ids[node])}
        return [owners[slots] for slots in sorted(owners)]

    def replicas(self, primary: StoreServer | None = None) -> list[StoreServer]:
        """The running replicas of one primary, or of all."""
        view = self.view()
        wanted = None if primary is None else self._id_of(primary)
        return [
            node
            for node in self._running()
            if (known := view.primary_of(self._ids[node])) is not None and wanted in {None, known}
        ]

    def owner_of(self, key_or_slot: str | bytes | int) -> StoreServer:
        """The primary that owns a slot, or the slot of a key. It may have been killed: then no other owns it yet."""
        slot = key_or_slot if isinstance(key_or_slot, int) else slot_of(key_or_slot)
        owner = self.view().owner_of(slot)
        for node in self._nodes:
            if self._ids.get(node) == owner:
                return node
        raise NotReadyError(f"no node of this cluster owns slot {slot}")

    def view(self, node: StoreServer | None = None) -> ClusterView:
        """What one node knows of all, by default the first that runs, which must not be paused."""
        return ClusterView.parse(ask(node if node is not None else self._running()[0], "CLUSTER", "NODES"))

    # ------------------------------------------------------------------------------------------------ changes

    def fail_over(self, primary: StoreServer, *, timeout: float = HEALTH_DEADLINE) -> StoreServer:
        """Has a replica of a running primary take its place, with nothing lost (`CLUSTER FAILOVER`), and waits.

        Returns the replica, which is the primary now.

        Raises:
            InvalidArgumentError: the primary has no running replica.
            GroupNotHealthyError: it did not happen within `timeout` seconds.
        """
        candidates = self.replicas(primary)
        if not candidates:
            raise InvalidArgumentError("primary", "it has no running replica; expected a primary with one")
        slots = self.view().slots_of(self._id_of(primary))
        ask(candidates[0], "CLUSTER", "FAILOVER")

        def check() -> None:
            if not slots or self.view(candidates[0]).slots_of(self._id_of(candidates[0])) != slots:
                raise NotReadyError("the replica has not taken over yet")

        self._wait_until(check, timeout)
        self.wait_until_healthy(timeout=timeout)
        return candidates[0]

    def migrate_slot(self, slot: int, target: StoreServer) -> SlotMigration:
        """Begins to move a slot to another primary: it is MIGRATING at its owner and IMPORTING at `target` now.

        It stays so until the migration that is returned is told to move keys and to finish.

        Raises:
            InvalidArgumentError: `target` owns the slot already.
        """
        source = self.owner_of(slot)
        if source is target:
            raise InvalidArgumentError("target", f"it owns slot {slot} already; expected another primary")
        migration = self._migration([slot], source, target)
        migration.begin()
        return migration

    def move_slots(self, slots: Iterable[int], target: StoreServer, *, timeout: float = HEALTH_DEADLINE) -> None:
        """Moves slots, with their keys, to another primary, and waits until every node knows it.

        Valkey 9 and newer move them by themselves (`CLUSTER MIGRATESLOTS`), others as `migrate_slot` does.

        Raises:
            GroupNotHealthyError: it did not happen within `timeout` seconds.
        """
        wanted = set(slots)

        def check() -> None:
            # Again until it has happened: on a busy machine a node may fail over in between, and refuse a step.
            view = self.view()
            missing = wanted - _slots(view.slots_of(self._id_of(target)))
            for node in self._running():
                if share := sorted(missing & _slots(view.slots_of(self._ids[node]))):
                    self._migration(share, node, target).run()
            if missing:
                raise NotReadyError(f"{len(missing)} slots have not moved yet")

        self._wait_until(check, timeout)
        self.wait_until_healthy(timeout=timeout)

    def add_node(self, *, replica_of: StoreServer | None = None) -> StoreServer:
        """Starts another node, and waits until every other one knows it: a primary without slots, or a replica."""
        node = self._new_node()
        self._nodes.append(node)
        try:
            node.start()
            self._ids[node] = text_of(ask(node, "CLUSTER", "MYID"))
            self._meet(self._running()[0], [node])
            self._wait_until(self._check_that_all_are_known)
            if replica_of is not None:
                self._wait_until(partial(_tell, node, "REPLICATE", self._id_of(replica_of)))
            self.wait_until_healthy()
        except BaseException:
            self._nodes.remove(node)
            self._ids.pop(node, None)
            node.stop()
            raise
        return node

    def forget(self, node: StoreServer) -> None:
        """Takes a node out of the cluster: its slots go to the other primaries, every node forgets it, it is stopped.

        Replicas of it become those of another primary.
        """
        mine = self._id_of(node)
        orphans = self.replicas(node) if node.running else []
        slots = sorted(_slots(self.view().slots_of(mine)))
        heirs = [primary for primary in self.primaries() if primary is not node]
        for number, heir in enumerate(heirs):
            first, end = (len(slots) * n // len(heirs) for n in (number, number + 1))
            self.move_slots(slots[first:end], heir)
        for orphan in orphans:
            self._wait_until(partial(_tell, orphan, "REPLICATE", self._id_of(heirs[0])))
        self._nodes.remove(node)
        # Before it is stopped, and all within a minute: a node that hears of it again from others takes it in again.
        for other in self._running():
            self._wait_until(partial(_tell, other, "FORGET", mine))
        node.stop()
        del self._ids[node]
        self.wait_until_healthy()

    def flush(self) -> None:
        """Removes every key, also from the replicas that are linked to their primaries.

        Raises:
            redis.exceptions.RedisError: a primary refused, or gave no answer within five seconds.
        """
        for primary in self.primaries():
            flush_with_replicas(primary, len(self.replicas(primary)))

    # ------------------------------------------------------------------------------------------------ machinery

    def _new_node(self) -> StoreServer:
        return self._new_server(
            {**_DIRECTIVES, "cluster-node-timeout": str(round(self._node_timeout * 1000))}
            | ({"tls-cluster": "yes", "tls-replication": "yes"} if self.tls else {})
        )

    def _start(self) -> None:
        side_by_side(ServerProcess.start, self._nodes)
        if self._ids:
            # Started again after stop(): the files are gone, and so are the identities.
            self._ids.clear()
        for node in self._nodes:
            self._ids[node] = text_of(ask(node, "CLUSTER", "MYID"))
        primaries = self._nodes[: self._first_primaries]
        for number, primary in enumerate(primaries):
            first, end = (SLOTS * n // len(primaries) for n in (number, number + 1))
            ask_all(
                primary,
                [
                    ("CLUSTER", "SET-CONFIG-EPOCH", number + 1),
                    ("CLUSTER", "ADDSLOTSRANGE", first, end - 1),
                ],
            )
        self._meet(self._nodes[0], self._nodes[1:])
        self._wait_until(self._check_that_all_are_known)
        for number, node in enumerate(self._nodes[len(primaries) :]):
            identifier = self._ids[primaries[number % len(primaries)]]
            self._wait_until(partial(_tell, node, "REPLICATE", identifier))
        self._wait_until(partial(self._check_links, self._nodes))
        self.flush()  # so that each replica receives something, and the map shows it
        self.wait_until_healthy()

    def _meet(self, first: StoreServer, others: Iterable[StoreServer]) -> None:
        meetings = [
            ("CLUSTER", "MEET", node.host, node.tls_port if self.tls else node.port, node.bus_port) for node in others
        ]
        ask_all(first, meetings)

    def _migration(self, slots: Sequence[int], source: StoreServer, target: StoreServer) -> SlotMigration:
        others = [primary for primary in self.primaries() if primary not in {source, target}]
        return SlotMigration(slots, source, target, (self._id_of(source), self._id_of(target)), others)

    def _running(self) -> list[StoreServer]:
        return [node for node in self._nodes if node.running]

    def _id_of(self, node: StoreServer) -> str:
        self._mine(node)
        return self._ids[node]

    def _check_that_all_are_known(self) -> None:
        running = self._running()
        identifiers = {self._ids[node] for node in running}
        for node in running:
            if missing := identifiers - self.view(node).linked():
                raise NotReadyError(f"the node at port {node.port} does not know {len(missing)} of the others yet")

    def _check(self, expected: Collection[ServerProcess]) -> None:
        nodes = [node for node in self._nodes if node in expected]
        identifiers = {self._ids[node] for node in nodes}
        first: ClusterView | None = None
        for node in nodes:
            state = fields_of(ask(node, "CLUSTER", "INFO"))
            if state["cluster_state"] != "ok" or state["cluster_slots_assigned"] != str(SLOTS):
                raise NotReadyError(f"the node at port {node.port} calls the cluster {state['cluster_state']}")
            view = self.view(node)
            if missing := identifiers - view.linked():
                raise NotReadyError(f"the node at port {node.port} has no link to {len(missing)} of the others")
            first = first or view
            if view.owners() != first.owners():
                raise NotReadyError("the nodes do not agree on who owns which slot")
            if any(view.primary_of(known) != first.primary_of(known) for known in identifiers):
                raise NotReadyError("the nodes do not agree on who is a replica of which")
            if not set(view.owners().values()) <= identifiers:
                raise NotReadyError(f"to the node at port {node.port}, a node that is away owns slots")
            # A replica is not in it until the node has heard that it received something.
            expected_in_map = {known for known in identifiers if view.slots_of(view.primary_of(known) or known)}
            if missing := expected_in_map - _ids_in_slots(ask(node, "CLUSTER", "SLOTS")):
                raise NotReadyError(f"the node at port {node.port} shows clients {len(missing)} nodes too few")
            primary = view.primary_of(self._ids[node])
            if primary is not None and (primary not in identifiers or view.primary_of(primary) is not None):
                raise NotReadyError(f"the replica at port {node.port} follows a node that is away or a replica itself")
        self._check_links(nodes)

    def _check_links(self, nodes: Iterable[StoreServer]) -> None:
        for node in nodes:
            with node.client() as client:
                if client.info("replication").get("master_link_status", "up") != "up":
                    log = node.log_tail(5)
                    where = f"the replica at port {node.port}"
                    raise NotReadyError(f"{where} has no link to its primary; its log ends with:\n{log}")


def _slots(ranges: Ranges) -> set[int]:
    return {slot for first, last in ranges for slot in range(first, last + 1)}


def _ids_in_slots(answer: object) -> set[str]:
    """The nodes that an answer to CLUSTER SLOTS names."""
    ranges = answer if isinstance(answer, list) else []
    return {text_of(node[2]) for _, _, *nodes in ranges for node in nodes}


def _tell(node: StoreServer, what: str, identifier: str) -> None:
    """Raises `RedisError` where the node refuses, as one does that does not know the other yet."""
    ask(node, "CLUSTER", what, identifier)
