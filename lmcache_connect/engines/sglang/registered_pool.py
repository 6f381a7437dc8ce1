"""`RegisteredPool`: a host pool of HiCache's, with the namespaces of its pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from ...errors import InvalidArgumentError
from ..namespace import Namespace
from .host_pool import HostPool
from .options import Options
from .pages import Page
from .pool_identity import identity_of, is_writer


@dataclass(frozen=True, slots=True)
class RegisteredPool:
    """What the backend knows of one pool. Threads share it, and it never changes.

    Attributes:
        pool: the pool's memory. None: HiCache has not registered it, and its pages can only be looked up.
        pages: the namespace of pages whose regions lie in the order of the pool's addresses.
        flat: the namespace of pages as HiCache flattens them, for the old interface.
        is_writer: whether this rank stores the pool's pages.
    """

    pool: HostPool | None
    pages: Namespace
    flat: Namespace
    is_writer: bool

    @classmethod
    def of(cls, config: Any, options: Options, pool: HostPool | None, name: str) -> Self:
        """Raises what `identity_of` and `Namespace` raise."""

        def namespace(kind: str) -> Namespace:
            identity = identity_of(config, pool, kind, options.identity, name=name)
            return Namespace(identity, strict_identity=options.strict_identity)

        return cls(pool, namespace("page"), namespace("flat"), is_writer(config, pool, name))

    @property
    def is_logical(self) -> bool:
        """Whether the pool has indices alone. Its pages have no bytes, and the other pools decide."""
        return self.pool is not None and self.pool.is_logical

    def at(self, keys: Sequence[str], host_indices: Any) -> list[Page]:
        """The pages of these keys, with their memory in the pool.

        Raises:
            InvalidArgumentError: HiCache has not registered the pool, or `HostPool.pages` raises it.
        """
        if self.pool is None:
            raise InvalidArgumentError("pool", "HiCache has not registered it")
        found = self.pool.pages(host_indices, len(keys))
        return [
            Page(self.pages.key(key), buffers, found.owners) for key, buffers in zip(keys, found.buffers, strict=True)
        ]
