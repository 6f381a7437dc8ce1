"""`RedisPlace`: one Redis or Valkey server, reached in plain, over TLS, or over a unix socket."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

import redis

from lmcache_connect.testing import FaultProxy, FaultyRedisProxy, RedisServer, ValkeyServer
from lmcache_connect.testing.servers.process import ServerProcess
from lmcache_connect.testing.servers.redis import StoreServer

from ..limits import TTL
from .certificates import Certificates
from .place import Place, Way

PASSWORD = "matrix-password"  # of servers that live as long as a run


class RedisLikePlace(Place):
    """What all places of Redis have: servers with a password in a file, and keys that expire."""

    servers: tuple[StoreServer, ...]
    offers = frozenset({"wire", "reply", "errors", "server", "volatile", "full", "expiry", "login"})
    options = f"ttl={TTL}&stripe=131072"
    """A chunk of the matrix is stored in pieces."""

    def start(self) -> None:
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="lmcc-matrix-")))
        self.password_file = self.folder / "password"
        self.password_file.write_text(PASSWORD)
        self.password_file.chmod(0o600)

    def query(self, **more: str) -> str:
        """The options of a URL."""
        return f"{self.options}&{urlencode({'password_file': str(self.password_file), **more}, quote_via=quote)}"

    def mend(self) -> None:
        super().mend()
        self.password_file.write_text(PASSWORD)
        for server in self.servers:
            if server.running:
                server.resume()
                self.set_password(server, PASSWORD)
        self._revive()
        for server in self.servers:
            self.set_password(server, PASSWORD)
            with self.client(server) as client:
                client.config_set("maxmemory", "0")
                client.config_set("maxmemory-policy", "noeviction")
        self._flush()

    def _revive(self) -> None:
        for server in self.servers:
            if server.running:
                server.resume()
            else:
                server.start()

    def _flush(self) -> None:
        for server in self.servers:
            with self.client(server) as client:
                client.flushall()

    def client(self, server: StoreServer) -> Any:
        """A client of one server, which may have any password."""
        return redis.Redis(
            unix_socket_path=server.unix_path, username="operator", password="operator", protocol=2, socket_timeout=5
        )

    def set_password(self, server: StoreServer, password: str) -> None:
        """The server asks for this password from now on, also on connections that are open."""
        with self.client(server) as client:
            client.config_set("requirepass", password)
            for each in client.client_list():
                is_ours = each["user"] == "default" and not set(each["flags"]) & set("SMOP")
                if is_ours and not each["name"].startswith("sentinel"):
                    client.client_kill_filter(_id=each["id"])

    def left(self) -> list[str]:
        found = []
        for server in self.primaries():
            with self.client(server) as client:
                lasting = [name for name in client.scan_iter(count=1000) if client.ttl(name) == -1]
            if lasting:
                found.append(f"{len(lasting)} keys without a TTL")
        return found

    def primaries(self) -> list[StoreServer]:
        """The servers that run and are not replicas: those have what their primaries have."""
        found = []
        for server in self.servers:
            if server.running:
                with self.client(server) as client:
                    if client.info("replication")["role"] == "master":
                        found.append(server)
        return found

    def forget(self, server: StoreServer) -> None:
        """Removes what the server has saved, so that its next start begins without it."""
        with self.client(server) as client:
            folder, name = client.config_get("dir")["dir"], client.config_get("dbfilename")["dbfilename"]
        (Path(folder) / name).unlink(missing_ok=True)

    def names(self, server: StoreServer) -> list[bytes]:
        """The keys that a server has."""
        with self.client(server) as client:
            return list(client.scan_iter(count=1000))


class RedisPlace(RedisLikePlace):
    """One server.

    Args:
        scheme: `redis`, `rediss` or `unix`.
        before: what stands before the scheme, such as `hot+`.
    """

    offers = RedisLikePlace.offers | {"single"}

    def __init__(self, scheme: Literal["redis", "rediss", "unix"] = "redis", before: str = "") -> None:
        super().__init__()
        self._scheme = scheme
        self._before = before
        if scheme == "rediss":
            self.offers |= {"certificate"}

    def start(self) -> None:
        super().start()
        password = PASSWORD if "login" in self.offers else None
        settings = {"user": "operator on >operator allkeys allchannels +@all"}
        self.certificates = Certificates()
        pair = self.certificates.authority_pem, self.certificates.good_pem
        server: StoreServer
        if self._scheme == "rediss":
            server = RedisServer(password=password, config=settings, tls=True, certificates=pair)
        else:
            server = ValkeyServer(password=password, config=settings)
        self.server = self.stack.enter_context(server)
        self.servers = (self.server,)
        self._paths = {"wire": self.folder / "w", "answers": self.folder / "a"}
        is_unix = self._scheme == "unix"
        wire = self._wire(str(self._paths["wire"]) if is_unix else None)
        self.wires = [self.stack.enter_context(wire)]
        context = None
        if self._scheme == "rediss":
            (self.folder / "ca.pem").write_bytes(self.certificates.authority_pem)
            self.context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.present("good")
        path = str(self._paths["answers"]) if is_unix else None
        proxy = FaultyRedisProxy(self.server.host, self.server.port, context=context, path=path)
        self.answering = [self.stack.enter_context(proxy)]

    def present(self, which: str) -> None:
        """The TLS proxy shows this certificate to new connections."""
        path = self.folder / "server.pem"
        path.write_bytes(getattr(self.certificates, f"{which}_pem"))
        self.context.load_cert_chain(path)

    def mend(self) -> None:
        if self._scheme == "rediss":
            self.present("good")
        super().mend()

    def _wire(self, path: str | None) -> FaultProxy:
        port = self.server.tls_port if self._scheme == "rediss" else self.server.port
        return FaultProxy(self.server.host, port, path=path)

    def url(self, way: Way) -> str:
        if self._scheme == "unix":
            path = self.server.unix_path if way == "direct" else self._paths[way]
            return f"{self._before}unix://{path}?{self.query()}"
        more = {"ca_file": str(self.folder / "ca.pem")} if self._scheme == "rediss" else {}
        if way == "direct":
            port = self.server.tls_port if self._scheme == "rediss" else self.server.port
        else:
            port = (self.wires if way == "wire" else self.answering)[0].port
        return f"{self._before}{self._scheme}://127.0.0.1:{port}?{self.query(**more)}"

    def victim(self, key: str) -> ServerProcess:
        return self.server
