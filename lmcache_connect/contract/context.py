"""`ConnectorContext`: what a connector is made from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..config import ConnectorConfig
from ..errors import InvalidURLError
from ..loop import LoopOwner
from ..memory import ChunkMemory
from ..metadata import CacheMetadata
from ..outside import Lane
from ..url import OptionsT, RemoteURL, URLOptions
from .connector import RemoteConnector


@dataclass(frozen=True)
class ConnectorContext:
    """Handed to `ConnectorAdapter.create_connector`.

    Attributes:
        url: the store's URL as it was given, secrets included: never log it; `remote_url` is the safe one.
        loop: the owning event loop. Everything the connector awaits runs there.
        local_cpu_backend: the memory that the connector receives chunks into. It is borrowed: do not close it.
        config: the configuration as the manager was given it, or the manager's own settings.
        metadata: the model's cache geometry, where it is known.
        plugin_name: the plug-in's name, `type` or `type.instance`, where a plug-in makes the connector.
        remote_url: the parsed URL.
        owner: the loop's owner, for calls from other threads.
        settings: the toolkit's own settings for this connector, with the URL's options applied.
        parsed_options: the URL's options, which the manager parsed and validated once; `options()` returns them. None
            where the adapter declares no model.
        wrapped: for each URL that the adapter named (`wrapped_urls`) what makes its connector; see `make_wrapped()`.
        find_dialect: for `lmcache_connect.foreign`: the dialect of a class that was written for another toolkit, or
            None.
        lane: for `lmcache_connect.foreign`: where the code of a connector that we did not write runs.
    """

    url: str = field(repr=False)
    loop: asyncio.AbstractEventLoop
    local_cpu_backend: ChunkMemory
    config: Any
    metadata: CacheMetadata | None
    plugin_name: str | None
    remote_url: RemoteURL
    owner: LoopOwner
    settings: ConnectorConfig
    parsed_options: URLOptions | None = field(default=None, repr=False)
    wrapped: tuple[Callable[[ChunkMemory], RemoteConnector], ...] = field(default=(), repr=False)
    find_dialect: Callable[[type[Any], ConnectorContext], Any] | None = field(default=None, repr=False)
    lane: Lane = field(default_factory=lambda: Lane("a connector"), repr=False)

    def get_full_chunk_size_bytes(self) -> int:
        """Bytes of a full chunk of the model.

        Raises:
            InvalidArgumentError: neither the manager nor the backend was given the model's metadata.
        """
        if self.metadata is not None:
            return self.metadata.full_chunk_bytes
        return self.local_cpu_backend.get_full_chunk_size_bytes()

    def make_wrapped(self, index: int = 0, local_cpu_backend: ChunkMemory | None = None) -> RemoteConnector:
        """The connector of the URL at `index` of those that the adapter's `wrapped_urls` named. The caller closes it.

        It receives chunks into `local_cpu_backend`; None: into the memory that this context has.

        Raises:
            InvalidURLError: the adapter named none.
            LMCacheConnectError: as making the connector raises it.
        """
        if not self.wrapped:
            raise InvalidURLError(self.remote_url.redacted(), "it wraps no other URL", "<name>+<scheme>://...")
        return self.wrapped[index](self.local_cpu_backend if local_cpu_backend is None else local_cpu_backend)

    def options(self, model: type[OptionsT]) -> OptionsT:
        """The URL's options as an instance of `model`.

        For the model that the adapter declares (`ConnectorAdapter.options`) these are the ones that the manager has
        validated already: the same object for every connector that is made from one plan. For any other model the
        URL's query is parsed here.

        Raises:
            UnknownOptionError, InvalidOptionError: the query does not fit another model.
        """
        parsed = self.parsed_options
        return parsed if isinstance(parsed, model) else self.remote_url.options(model)
