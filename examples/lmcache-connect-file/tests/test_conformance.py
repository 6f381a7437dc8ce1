"""The file connector keeps every rule."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lmcache_connect.testing import Capabilities, ConnectorConformance
from lmcache_connect_file.adapter import FileConnectorAdapter
from lmcache_connect_file.chunk_folder import ChunkFolder


class TestFileConnector(ConnectorConformance):
    adapters = (FileConnectorAdapter,)
    capabilities = Capabilities(remove=True, list=True, scan=True, ping=True, ttl=True, raw=True, shared=True)
    folder: Path

    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        (tmp_path / "chunks").mkdir()
        self.folder = tmp_path / "store"
        self.folder.symlink_to("chunks")
        return f"file://{self.folder}"

    async def read_raw(self, key: str) -> bytes | None:
        path = self._path(key)
        return await asyncio.to_thread(path.read_bytes) if path.exists() else None

    async def write_raw(self, key: str, data: bytes) -> None:
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        await asyncio.to_thread(path.write_bytes, data)

    async def break_store(self) -> None:
        spare = self.folder.with_name("spare")
        spare.write_text("a file where the folder was")
        spare.replace(self.folder)  # in one step: a folder that is not there yet is an empty store

    async def mend_store(self) -> None:
        spare = self.folder.with_name("spare")
        spare.symlink_to("chunks")
        spare.replace(self.folder)

    def _path(self, key: str) -> Path:
        return ChunkFolder(self.folder, "file://", None, None).path(key)
