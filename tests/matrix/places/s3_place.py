"""`S3Place`: rclone's S3 for faults of the wire and of the process, and a server of ours for answers of HTTP."""

from __future__ import annotations

from uuid import uuid4

from lmcache_connect.testing import FaultProxy, FaultyS3Server, RcloneServer
from lmcache_connect.testing.servers.process import ServerProcess
from lmcache_connect.testing.servers.s3_faults import Fault

from .place import Place, Way


class S3Place(Place):
    """One bucket on each."""

    offers = frozenset({"wire", "http", "server", "s3 login"})
    header = (550, 970)

    def start(self) -> None:
        self.server = self.stack.enter_context(RcloneServer())
        self.answers = self.stack.enter_context(FaultyS3Server())
        self.wires = [self.stack.enter_context(FaultProxy(self.server.host, self.server.port))]

    def url(self, way: Way) -> str:
        if way == "answers":
            return self.answers.url("matrix")
        ends = {} if way == "direct" else {"endpoint": f"http://127.0.0.1:{self.wires[0].port}"}
        return self.server.url(f"matrix-{uuid4().hex}", **ends)

    def plan(self, fault: Fault, times: int | None) -> None:
        """Plans the fault for transfers."""
        for method in ("GET", "PUT", "POST"):
            self.answers.plan(method, fault, times)

    def mend(self) -> None:
        super().mend()
        if self.server.running:
            self.server.resume()
        else:
            self.server.start()
        self.answers.heal()

    def victim(self, key: str) -> ServerProcess:
        return self.server

    def left(self) -> list[str]:
        return [f"{self.answers.uploads} uploads that were not ended"] if self.answers.uploads else []
