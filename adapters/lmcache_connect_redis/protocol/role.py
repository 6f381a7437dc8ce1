"""ROLE: whether a server is a primary or a replica, asked when a connection is set up, and from time to time after."""

from __future__ import annotations

from typing import Final

from lmcache_connect import StoreError

from .connection import Connection
from .nested import read_nested
from .replies import encode_command
from .traits import Role

ASK_ROLE: Final = encode_command(b"ROLE")

_REPLY_BYTES: Final = 64 << 10
"""A primary's reply names its replicas."""

_NAME_BYTES: Final = 256
_DEPTH: Final = 3

_ROLES: Final = {b"master": Role.PRIMARY, b"primary": Role.PRIMARY, b"slave": Role.REPLICA, b"replica": Role.REPLICA}


async def read_role(connection: Connection) -> Role | None:
    """Takes the reply to `ASK_ROLE`. Returns None where it names neither role, and where it is an error.

    Raises:
        StoreProtocolError: the reply cannot be understood: the stream is closed.
    """
    try:
        reply = await read_nested(connection, _REPLY_BYTES, _NAME_BYTES, _DEPTH)
    except StoreError:
        if not connection.stream.is_open:
            raise
        return None  # the server lacks it, this user may not use it, or it cannot be answered now
    name = reply[0] if isinstance(reply, list) and reply else None
    return _ROLES.get(name) if isinstance(name, bytes) else None


async def check_role(connection: Connection) -> None:
    """Takes the reply to `ASK_ROLE` on a connection that is in use. It serves no further call if it was demoted."""
    role = await read_role(connection)
    if role is Role.REPLICA and connection.traits.role is Role.PRIMARY:
        connection.end_tenure()
