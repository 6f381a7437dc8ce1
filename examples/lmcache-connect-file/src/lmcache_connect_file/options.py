"""What a file URL may say."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lmcache_connect import ConnectorOptions
from lmcache_connect.config import Bytes, Seconds


class FileOptions(ConnectorOptions):
    """`file:///path/to/folder[?option=value&...]`"""

    ttl: Seconds | None = None
    """Chunks that were stored longer ago than this, in seconds, are misses, and are removed; by default none."""

    max_bytes: Bytes | None = None
    """What the chunks may take together; those that were not read for longest go first. By default no limit."""

    threads: Annotated[int, Field(ge=1, le=64)] = 4
    """Threads that read and write."""
