"""`ExternalPlace`: `external://` around a plain connector on redis-py, on one server."""

from __future__ import annotations

from .place import Way
from .redis_place import RedisPlace


class ExternalPlace(RedisPlace):
    """The server has no password: the URL's host is all that the connector is told."""

    offers = frozenset({"wire", "reply", "errors", "server", "volatile", "full", "single"})
    header = (100, 40)

    def url(self, way: Way) -> str:
        port = {"direct": self.server.port, "wire": self.wires[0].port, "answers": self.answering[0].port}[way]
        module = "lmcache_reference_connectors.redis/?connector_name=RedisReferenceConnector"
        return f"external://127.0.0.1:{port}/{module}"

    def set_password(self, server: object, password: str) -> None:
        pass  # it has none

    def left(self) -> list[str]:
        return []  # this connector has no TTL
