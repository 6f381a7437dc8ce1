"""What the shell completes."""

from __future__ import annotations

from lmcache_connect.cli.frame.completion import complete_scheme, complete_url

from .conftest import run


def test_the_schemes_of_urls_are_completed() -> None:
    assert {"redis://", "rediss://", "redis-cluster://"} <= set(complete_url("redi"))
    assert list(complete_url("redis://h")) == []
    assert list(complete_scheme("s")) == ["s3"]


def test_the_shell_is_answered() -> None:
    asked = {"_LMCACHE_CONNECT_COMPLETE": "complete_bash", "COMP_WORDS": "lmcache-connect ping s3", "COMP_CWORD": "2"}
    ran = run(env=asked)
    assert (ran.code, ran.out.split(), ran.err) == (0, ["s3://"], "")
