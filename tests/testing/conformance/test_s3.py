"""The conformance suite on S3: against rclone's server, in threads and on the loop, moto's, and Ceph's."""

from __future__ import annotations

import secrets

import pytest

from lmcache_connect.testing import Capabilities, ConnectorConformance
from lmcache_connect.testing.servers.ceph import CephServer
from lmcache_connect.testing.servers.s3 import MotoServer, RcloneServer, S3Server

from .raw_s3 import RawS3


class _S3(ConnectorConformance):
    capabilities = Capabilities(remove=True, list=True, scan=True, ping=True, shared=True, raw=True, key_bytes=900)
    options: dict[str, str] = {}  # noqa: RUF012  # of each class
    raw: RawS3

    async def read_raw(self, key: str) -> bytes | None:
        return await self.raw.read(key)

    async def write_raw(self, key: str, data: bytes) -> None:
        await self.raw.write(key, data)

    def of(self, server: S3Server) -> str:
        prefix = f"conformance/{secrets.token_hex(4)}"
        self.raw = RawS3(server, prefix)
        self.store_address = f"{server.host}:{server.port}"
        return server.url(prefix, **self.options)


class TestRclone(_S3):
    @pytest.fixture
    def store_url(self, rclone_server: RcloneServer) -> str:
        return self.of(rclone_server)


@pytest.mark.variant
class TestRcloneInThreads(TestRclone):
    options = {"io": "thread", "range_size": str(1 << 20)}  # noqa: RUF012


@pytest.mark.variant
class TestRcloneOnTheLoop(TestRclone):
    options = {"io": "loop", "pool_size": "2"}  # noqa: RUF012


@pytest.mark.variant
class TestMoto(_S3):
    options = {"multipart_threshold": str(5 << 20), "part_size": str(5 << 20)}  # noqa: RUF012

    @pytest.fixture
    def store_url(self, moto_server: MotoServer) -> str:
        return self.of(moto_server)


@pytest.mark.variant
class TestCeph(_S3):
    options = {"multipart_threshold": str(5 << 20), "part_size": str(5 << 20)}  # noqa: RUF012

    @pytest.fixture
    def store_url(self, ceph_server: CephServer) -> str:
        return self.of(ceph_server)
