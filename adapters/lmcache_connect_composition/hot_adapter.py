"""`HotConnectorAdapter`: `hot+<scheme>://`, a hot cache in front of any store."""

from __future__ import annotations

import time
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StringConstraints

from lmcache_connect import ConnectorContext, ConnectorOptions, InvalidURLError, RemoteConnector
from lmcache_connect.config import SIZE, Seconds
from lmcache_connect.contract import PrefixAdapter
from lmcache_connect.errors import InvalidArgumentError
from lmcache_connect.memory import LayeredMemory, LocalCPUBackend, eviction_policy
from lmcache_connect.url import RemoteURL

from .hot_connector import HotConnector

_LEAST_BYTES: Final = 4096


def _known_policy(name: str) -> str:
    try:
        eviction_policy(name)
    except InvalidArgumentError as error:
        raise ValueError(error.reason) from None
    return name.upper()


class HotOptions(ConnectorOptions):
    """`hot+<scheme>://...?hot_bytes=2GiB&hot_ttl=60`, with the wrapped store's own options beside them."""

    hot_bytes: Annotated[int, SIZE, Field(ge=_LEAST_BYTES, le=1 << 50)] = 1 << 30
    """The memory of the cache, beside the manager's arena: bytes, or a size such as `2GiB`."""

    hot_ttl: Seconds = 60.0
    """The most seconds for which a chunk is served without asking the store."""

    hot_eviction: Annotated[str, StringConstraints(max_length=16), AfterValidator(_known_policy)] = "LRU"
    """Which chunk makes room first: `LRU`, `LFU`, `FIFO` or `MRU`."""


class HotConnectorAdapter(PrefixAdapter):
    """`hot+redis://host?hot_bytes=2GiB&hot_ttl=60`. Options: `HotOptions`, and the wrapped store's."""

    prefix = "hot"
    options = HotOptions

    def clock(self) -> float:
        """What tells the age of chunks, in seconds."""
        return time.monotonic()

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """The store's connector, which receives into the cache's memory, with the cache in front of it.

        Raises:
            InvalidURLError: chunks lie in memory that an engine owns.
        """
        if not isinstance(context.local_cpu_backend, LocalCPUBackend):
            raise InvalidURLError(
                context.remote_url.redacted(),
                "chunks lie in memory that an engine owns, and a hot cache has memory of its own",
                "the URL without 'hot+'; the engine's own cache holds what it uses often",
            )
        options = context.options(HotOptions)
        memory = LocalCPUBackend(
            options.hot_bytes,
            metadata=context.local_cpu_backend.metadata,
            eviction=options.hot_eviction,
            warm_ahead=context.settings.warm_ahead,
            hot_ttl=options.hot_ttl,
            clock=self.clock,
        )
        try:
            inside = context.make_wrapped(local_cpu_backend=LayeredMemory(memory, context.local_cpu_backend))
            return HotConnector(inside, memory, context.remote_url.label(), chunk_ttl(context.remote_url))
        except BaseException:
            memory.close()
            raise


def chunk_ttl(url: RemoteURL) -> float | None:
    """Seconds after which the store behind the URL forgets a chunk: its option `ttl`; None where it has none."""
    text = url.query.get("ttl")
    try:
        seconds = float(text.get_secret_value()) if text is not None else 0.0
    except ValueError:
        return None  # it means something else to that store
    return seconds if seconds > 0 else None
