"""TLS: which name a certificate must have, and which version of its files a context is made of."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from lmcache_connect.transport import CertificateRefusedError, TLSSettings, TLSSettingsError
from lmcache_connect.transport.tls import handshake

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def peer(tmp_path: Path) -> AsyncIterator[int]:
    """The port of a TLS peer whose certificate is for store.example. `tmp_path/ca.pem` verifies it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("store.example").configure_cert(context)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def verified(port: int, settings: TLSSettings, host: str) -> bool:
    """Does the handshake with `host` at a port of this machine."""
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return bool(await handshake(sock, settings, host, f"{host}:{port}"))


async def test_a_name_with_a_final_dot_verifies_as_the_name_without_it(peer: int, tmp_path: Path) -> None:
    settings = TLSSettings(ca_file=str(tmp_path / "ca.pem"))
    assert await verified(peer, settings, "store.example.")
    with pytest.raises(CertificateRefusedError):
        await verified(peer, settings, "another.example.")


async def test_a_context_is_kept_until_one_of_its_files_changes(peer: int, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    settings = TLSSettings(ca_file=str(ca_file))
    first = await settings.context()
    assert await settings.context() is first
    right = ca_file.read_text()
    trustme.CA().cert_pem.write_to_path(ca_file)
    with pytest.raises(CertificateRefusedError):
        await verified(peer, settings, "store.example")
    ca_file.write_text("no certificate\n")
    with pytest.raises(TLSSettingsError, match="the ca_file"):
        await settings.context()
    ca_file.write_text(right)
    assert await verified(peer, settings, "store.example")


async def test_a_file_that_is_replaced_by_a_link_to_another_is_read_again(peer: int, tmp_path: Path) -> None:
    # How secrets are replaced in a container: the link moves, and the file itself never changes.
    link = tmp_path / "linked.pem"
    trustme.CA().cert_pem.write_to_path(tmp_path / "old.pem")
    link.symlink_to(tmp_path / "old.pem")
    settings = TLSSettings(ca_file=str(link))
    with pytest.raises(CertificateRefusedError):
        await verified(peer, settings, "store.example")
    link.unlink()
    link.symlink_to(tmp_path / "ca.pem")
    assert await verified(peer, settings, "store.example")


async def test_without_files_the_systems_authorities_are_read_once(peer: int) -> None:
    settings = TLSSettings()
    assert await settings.context() is await settings.context()
    with pytest.raises(CertificateRefusedError):
        await verified(peer, settings, "store.example")
