"""`Glide`: valkey-glide's async client, whose core is written in Rust."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, unquote, urlsplit

from .bytes_contender import BytesContender, client_package

KIB: Final = 1 << 10
TIMEOUT_MS: Final = 60_000
"""Of one request. The client's default of 250 ms is less than a few large values take on a busy machine."""


class Glide(BytesContender):
    """Four clients, because one client is one connection; small chunks and look-ups in batches."""

    name: ClassVar[str] = "valkey-glide"
    connections: ClassVar[int] = 4
    request_bytes: ClassVar[int] = 512 * KIB

    def __init__(self) -> None:
        super().__init__()
        self._glide: Any = None
        self._clients: list[Any] = []

    async def open(self, url: str, chunk_bytes: int, chunks: int) -> None:
        """Connects each client. Blocks the event loop meanwhile, as the package does."""
        self._glide = glide = client_package("glide", "valkey-glide")
        parts = urlsplit(url)
        if parts.scheme == "unix":
            address = glide.NodeAddress(unix_socket_path=unquote(parts.path))
            database = parse_qs(parts.query).get("db", ["0"])[0]
        else:
            address = glide.NodeAddress(parts.hostname or "localhost", parts.port or 6379)
            database = parts.path.strip("/") or "0"
        configuration = glide.GlideClientConfiguration(
            [address],
            use_tls=parts.scheme == "rediss",
            request_timeout=TIMEOUT_MS,
            database_id=int(database),
            client_name="benchmark",
            advanced_config=self._trusting(parse_qs(parts.query).get("ca_file")),
        )
        for _ in range(self.connections):
            self._clients.append(await glide.GlideClient.create(configuration))
        self.make_room(chunk_bytes, chunks)

    def _trusting(self, ca_files: list[str] | None) -> Any:
        """What makes a client verify its server against the authority in a file, as `?ca_file=` does."""
        if ca_files is None:
            return None
        tls = self._glide.TlsAdvancedConfiguration(root_pem_cacerts=Path(ca_files[0]).read_bytes())
        return self._glide.AdvancedGlideClientConfiguration(tls_config=tls)

    async def exists(self, keys: Sequence[str]) -> list[bool]:
        """Looks up all keys in one batch."""
        batch = self._glide.Batch(is_atomic=False)
        for key in keys:
            batch.exists([key])
        return [bool(found) for found in await self._run(0, batch)]

    async def close(self) -> None:
        """Disconnects every client."""
        clients, self._clients = self._clients, []
        for client in clients:
            await client.close()
        self.give_back_room()

    async def _set(self, connection: int, keys: Sequence[str], values: Sequence[bytes]) -> None:
        if len(keys) == 1:
            await self._clients[connection].set(keys[0], values[0])
            return
        batch = self._glide.Batch(is_atomic=False)
        for key, value in zip(keys, values, strict=True):
            batch.set(key, value)
        await self._run(connection, batch)

    async def _get(self, connection: int, keys: Sequence[str]) -> Sequence[bytes | None]:
        if len(keys) == 1:
            return [await self._clients[connection].get(keys[0])]
        batch = self._glide.Batch(is_atomic=False)
        for key in keys:
            batch.get(key)
        return await self._run(connection, batch)

    async def _run(self, connection: int, batch: Any) -> list[Any]:
        options = self._glide.BatchOptions(timeout=TIMEOUT_MS)
        replies: list[Any] = await self._clients[connection].exec(batch, raise_on_error=True, options=options)
        return replies
