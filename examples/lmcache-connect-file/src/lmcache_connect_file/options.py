"""The options of a file URL."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lmcache_connect import ConnectorOptions
from lmcache_connect.config import Bytes, Seconds


class FileOptions(ConnectorOptions):
    """`file:///path/to/folder[?option=value&...]`"""

    ttl: Seconds | None = None
    """Seconds after which a stored chunk is a miss and is removed. By default chunks do not expire."""

    max_bytes: Bytes | None = None
    """The most bytes of all chunks, by default unlimited. Chunks that were not read for longest are removed first."""

    threads: Annotated[int, Field(ge=1, le=64)] = 4
    """The number of threads that read and write."""
