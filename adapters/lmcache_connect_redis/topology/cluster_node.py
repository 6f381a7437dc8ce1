"""`ClusterNode`: one node of a cluster, as the server of a URL."""

from __future__ import annotations

from typing import Final

from lmcache_connect import RemoteURL

from ..credentials.credentials import Credentials
from ..options import RedisOptions
from ..protocol.connection import Connection
from ..protocol.replies import encode_command
from .single import SingleServer

_READONLY: Final = encode_command(b"READONLY")


class ClusterNode(SingleServer):
    """Opens connections to one node. What it says of other nodes then concerns single keys, and not the connection."""

    def __init__(
        self,
        url: RemoteURL,
        options: RedisOptions,
        stall_timeout: float | None,
        credentials: Credentials | None,
        *,
        is_replica: bool = False,
    ) -> None:
        """See `SingleServer`. With `is_replica`, the node answers for the keys of its primary, from its copies."""
        super().__init__(url, options, stall_timeout, credentials)
        self._is_replica = is_replica

    async def open_connection(self) -> Connection:
        connection = await super().open_connection()
        connection.is_of_cluster = True
        if not self._is_replica:
            return connection
        try:
            await connection.send(_READONLY)
            await connection.read_ok()
        except BaseException:
            connection.close()
            raise
        return connection
