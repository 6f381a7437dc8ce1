"""A credential process that takes longer than its caller has time: the deadline holds, and others go on."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, OperationTimeoutError
from lmcache_connect.outside import Lane

pytestmark = pytest.mark.asyncio

URL = "s3://chunks?endpoint=http://127.0.0.1:9&region=eu-west-1&profile=slow"

PROGRAM = """
import pathlib, time
ends = time.monotonic() + 20
while time.monotonic() < ends and not pathlib.Path({!r}).exists():
    time.sleep(0.02)
print('{{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"}}')
"""


async def test_a_credential_process_that_sleeps_does_not_outlive_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = tmp_path / "go-on"
    program = tmp_path / "process.py"
    program.write_text(PROGRAM.format(str(go_on)))
    config = tmp_path / "config"
    config.write_text(f"[profile slow]\ncredential_process = {sys.executable} {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    async with ConnectorManager(URL, config=ConnectorConfig.load(operation_timeout=0.3, retries=0)) as manager:
        connector = await manager.open_connector()
        try:
            started = time.monotonic()
            with pytest.raises(OperationTimeoutError):
                await connector.exists("k")
            assert time.monotonic() - started < 0.8
            lane = next(lane for lane in Lane.all() if "credentials" in lane.name and lane.abandoned_calls)
        finally:
            go_on.touch()
        while lane.abandoned_calls:
            await asyncio.sleep(0.005)
