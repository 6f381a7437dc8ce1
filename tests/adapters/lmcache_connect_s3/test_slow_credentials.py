"""A credential process that takes longer than its caller has time: the deadline holds, and others go on."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import anyio
import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, OperationTimeoutError, StoreUnavailableError
from lmcache_connect.outside import Lane

pytestmark = pytest.mark.asyncio

CONFIG = ConnectorConfig.load(operation_timeout=0.3, breaker_failures=1000)
URL = "s3://chunks?endpoint=http://127.0.0.1:9&region=eu-west-1&profile=slow"

PROGRAM = """
import pathlib, time
with open({!r}, "a") as runs:
    runs.write("x")
ends = time.monotonic() + 20
while time.monotonic() < ends and not pathlib.Path({!r}).exists():
    time.sleep(0.02)
print('{{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"}}')
"""


def slow_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a profile whose credential process ends when the file exists that is returned."""
    go_on = tmp_path / "go-on"
    program = tmp_path / "process.py"
    program.write_text(PROGRAM.format(str(tmp_path / "runs"), str(go_on)))
    config = tmp_path / "config"
    config.write_text(f"[profile slow]\ncredential_process = {sys.executable} {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return go_on


async def test_a_credential_process_that_sleeps_does_not_outlive_the_deadline_and_serves_later_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = slow_profile(tmp_path, monkeypatch)
    runs = tmp_path / "runs"
    async with ConnectorManager(URL, config=CONFIG) as manager:
        connector = await manager.open_connector()
        try:
            for _ in range(3):
                started = time.monotonic()
                with pytest.raises(OperationTimeoutError):
                    await connector.exists("k")
                assert time.monotonic() - started < 0.8
        finally:
            go_on.touch()
        lane = next(lane for lane in Lane.all() if "credentials" in lane.name and lane.threads)
        assert lane.abandoned_calls == 0
        with anyio.fail_after(5):
            while True:
                try:
                    await connector.exists("k")
                except OperationTimeoutError:
                    continue  # the process is ending
                except StoreUnavailableError:
                    break  # it has credentials, and nobody listens there
        assert runs.read_text() == "x"


async def test_a_connector_that_is_closed_leaves_its_credential_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = slow_profile(tmp_path, monkeypatch)
    try:
        async with ConnectorManager(URL, config=CONFIG) as manager:
            connector = await manager.open_connector()
            with pytest.raises(OperationTimeoutError):
                await connector.exists("k")
            started = time.monotonic()
        assert time.monotonic() - started < 1
        lane = next(lane for lane in Lane.all() if "credentials" in lane.name and lane.abandoned_calls)
    finally:
        go_on.touch()
    with anyio.fail_after(5):
        while lane.abandoned_calls:
            await asyncio.sleep(0.005)  # it ends in a thread
