"""A file with a secret that others may read draws one warning."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from lmcache_connect import ConnectorManager
from lmcache_connect.internal_api_server import APIServerConfig
from lmcache_connect.observability import read_secret_file


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("secret_file_open_to_others")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "word"
    path.write_text("a-token-of-30-characters-01234")
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_read_or_write_draws_one_warning(
    mode: int, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.chmod(mode)
    for _ in range(3):
        assert read_secret_file(file) == b"a-token-of-30-characters-01234"
    (message,) = warnings(caplog)
    assert f"file={file} mode=0{mode:o} " in message
    assert message.endswith("chmod 600")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_its_owner_alone_draws_none(mode: int, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.chmod(mode)
    read_secret_file(file)
    assert warnings(caplog) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_draws_none_since_its_mode_cannot_be_changed(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.chown(file, 12345, 12345)
    read_secret_file(file)
    assert warnings(caplog) == []


def test_a_file_on_a_read_only_mount_draws_none(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mounting needs rights that a test has not. The answer is the kernel's for a mount with `ro`.
    found = list(os.statvfs(file))
    flags = found[8] | os.ST_RDONLY
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result([*found[:8], flags, *found[9:]]))
    read_secret_file(file)
    assert warnings(caplog) == []


def test_the_token_file_of_the_internal_api_is_such_a_file(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert APIServerConfig.load(token_file=file).token is not None
    assert len(warnings(caplog)) == 1


@pytest.mark.asyncio
async def test_the_password_file_of_a_store_is_such_a_file(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with ConnectorManager(f"redis://127.0.0.1:1?password_file={file}") as manager:
        manager.create_connector()
    assert len(warnings(caplog)) == 1
    assert logging.getLevelName(caplog.records[-1].levelno) == "WARNING"
