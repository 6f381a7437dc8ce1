"""URLs that hold a secret, and what every client of an engine says of them when it starts."""

from __future__ import annotations

from typing import Final

import pytest

SECRET: Final = "hunter2-of-the-store"  # it is looked for in the log
WITH_A_SECRET: Final = {
    "password": f"redis://kv:{SECRET}@127.0.0.1:1/0",
    "password of a cache's store": f"hot+redis://:{SECRET}@127.0.0.1:1",
    "key": f"s3://bucket/kv?endpoint=http://127.0.0.1:1&access_key=AKIA&secret_key={SECRET}",
}
"""Stores that nothing answers for. No client connects before its first batch."""
WITHOUT: Final = "redis://kv@127.0.0.1:1/0?password_env=STORE_PASSWORD"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of a secret in a URL. The secret itself is in no line."""
    lines = [record.getMessage() for record in caplog.records]
    assert not any(SECRET in line for line in lines)
    return [line for line in lines if line.startswith("engine_secret_in_url")]


def check_warning(caplog: pytest.LogCaptureFixture, option: str) -> None:
    """Whether one warning was given, which names the option and says what to write instead."""
    [line] = warnings_of(caplog)
    assert f"option={option} " in line
    assert all(name in line for name in ("password_env=", "password_file=", "LMCACHE_CONNECT_URL"))
