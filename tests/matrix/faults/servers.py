"""Faults of the store's processes: killed, frozen, restarted, replaced, full, evicting, forgetting."""

from __future__ import annotations

from typing import Any

from lmcache_connect.testing.servers.process import ServerProcess

from ..cell import Operation
from ..limits import SIZE
from ..places.groups import ClusterPlace, SentinelPlace
from ..places.redis_place import RedisLikePlace
from .fault import Fault, Trial, in_thread


class ServerFault(Fault):
    """Happens to the server that has the keys."""

    family = "server"
    needs = "server"

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        await in_thread(self._begin, trial)

    async def end(self, trial: Trial) -> None:
        await in_thread(self._end, trial)

    def _begin(self, trial: Trial) -> None:
        key = trial.keys["raise", "get"]
        server = trial.place.victim(key)
        trial.shared.append(server)
        self.harm(trial.place, server, key)

    def _end(self, trial: Trial) -> None:
        server: Any = trial.shared.pop()
        self.mend(trial.place, server)

    def harm(self, place: Any, server: Any, key: str) -> None:
        """It begins for this server, which has this key."""
        raise NotImplementedError

    def mend(self, place: Any, server: Any) -> None:
        """It is over for this server."""


class Killed(ServerFault):
    name = "kill"
    title = "server killed (SIGKILL)"
    text = (
        "The server's process is killed. A single one is started again, empty, after the calls. Sentinel and Cluster "
        "put a replica in its place by themselves."
    )

    def harm(self, place: Any, server: ServerProcess, key: str) -> None:
        server.kill()

    def mend(self, place: Any, server: ServerProcess) -> None:
        if not isinstance(place, SentinelPlace | ClusterPlace):
            server.start()


class Frozen(ServerFault):
    name = "stop"
    title = "server frozen (SIGSTOP)"
    text = "The server's process stands still. The kernel goes on accepting connections for it."

    def harm(self, place: Any, server: ServerProcess, key: str) -> None:
        server.pause()

    def mend(self, place: Any, server: ServerProcess) -> None:
        server.resume()


class Restarted(ServerFault):
    name = "restart"
    title = "server restarted, with its data"
    text = "The server has saved its data, was killed and is up again. No connection has survived."

    def harm(self, place: Any, server: Any, key: str) -> None:
        if isinstance(place, RedisLikePlace):
            with place.client(server) as client:
                client.save()
        server.kill()
        server.start()
        if isinstance(place, RedisLikePlace):
            place.forget(server)


class Emptied(ServerFault):
    name = "restart-empty"
    title = "server restarted, without its data"
    text = "The server was killed and is up again, and has forgotten everything."
    needs = "volatile"

    def harm(self, place: Any, server: Any, key: str) -> None:
        server.kill()
        server.start()


class FailedOver(Fault):
    name = "failover"
    title = "planned failover"
    text = "A replica has taken over from the primary that the connections lead to. Nothing was lost."
    family = "server"
    needs = "group"

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        place: Any = trial.place
        await in_thread(place.fail_over, trial.keys["raise", "get"])


class ReadOnly(ServerFault):
    name = "readonly"
    title = "server became a replica (READONLY)"
    text = "Somebody has made a replica of the server: it answers reads, and refuses writes."
    needs = "single"

    def harm(self, place: RedisLikePlace, server: Any, key: str) -> None:
        with place.client(server) as client:
            client.slaveof("127.0.0.1", 1)

    def mend(self, place: RedisLikePlace, server: Any) -> None:
        with place.client(server) as client:
            client.slaveof()


class Full(ServerFault):
    name = "full"
    title = "store full (maxmemory, noeviction)"
    text = "The server has reached `maxmemory`, and its policy evicts nothing."
    needs = "full"

    def harm(self, place: RedisLikePlace, server: Any, key: str) -> None:
        with place.client(server) as client:
            client.config_set("maxmemory", "1")

    def mend(self, place: RedisLikePlace, server: Any) -> None:
        with place.client(server) as client:
            client.config_set("maxmemory", "0")


class Evicting(ServerFault):
    name = "evict"
    title = "store evicting (allkeys-lru)"
    text = "The server had to make room, and has evicted what was used least recently."
    needs = "full"

    def harm(self, place: RedisLikePlace, server: Any, key: str) -> None:
        with place.client(server) as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
            client.config_set("maxmemory-samples", "64")
            client.config_set("maxmemory", str(client.info("memory")["used_memory"] + 2 * SIZE))
            for number in range(40):
                client.set(f"{{{key}}}-filler-{number}", bytes(SIZE), ex=60)  # in the same slot

    def mend(self, place: RedisLikePlace, server: Any) -> None:
        with place.client(server) as client:
            client.config_set("maxmemory", "0")


class Expired(ServerFault):
    name = "ttl"
    title = "chunks expired (TTL)"
    text = "The time to live of what was stored is over."
    needs = "expiry"

    def harm(self, place: RedisLikePlace, server: Any, key: str) -> None:
        for each in place.primaries():
            with place.client(each) as client:
                for name in client.scan_iter(count=1000):
                    client.pexpire(name, 1)


FAULTS: tuple[Fault, ...] = (
    Killed(), Frozen(), Restarted(), Emptied(), FailedOver(), ReadOnly(), Full(), Evicting(), Expired(),
)  # fmt: skip
