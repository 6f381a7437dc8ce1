"""`lmcache-connect rm` and `clear`: they remove what they were told to, and nothing else."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest

from lmcache_connect.testing import ValkeyServer

from ..conftest import Ran, key_count
from .conftest import MODEL, engine_key

Invoke = Callable[..., Ran]


def test_rm_removes_keys_and_tells_which_were_not_there(url: str, server: ValkeyServer, invoke: Invoke) -> None:
    ran = invoke("rm", url, engine_key("acme", "aa"), "no such key", "--json")
    assert ran.code == 1
    found = json.loads(ran.out)
    assert (found["removed"], found["missing"]) == ([engine_key("acme", "aa")], ["no such key"])
    assert invoke("rm", url, "no such key", "--force").code == 0
    assert engine_key("acme", "aa") not in invoke("ls", url).out
    assert engine_key("acme", "bb") in invoke("ls", url).out


def test_rm_reads_keys_from_stdin_and_names_what_cannot_be_one(
    url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{engine_key('acme', 'aa')}\n\nbad \x01 key\n"))
    ran = invoke("rm", url, "--stdin")
    assert ran.code == 1
    assert "cannot be a key bad \\x01 key" in ran.out
    assert "1 key removed" in ran.out


def test_clear_looks_first_and_removes_what_has_the_prefix(url: str, invoke: Invoke) -> None:
    dry = json.loads(invoke("clear", url, f"{MODEL}@acme@", "--dry-run", "--json").out)
    assert (dry["chunks"], dry["removed"]) == (2, None)
    assert dry["bytes"] > 5 << 20
    assert invoke("ls", url, "--count").out == "5\n"
    ran = invoke("clear", url, f"{MODEL}@acme@", "--yes")
    assert ran.code == 0
    assert "2 chunks removed" in ran.out
    assert invoke("ls", url, "--count").out == "3\n"


def test_clear_refuses_where_there_is_nobody_to_ask(url: str, invoke: Invoke) -> None:
    ran = invoke("clear", url, f"{MODEL}@acme@")
    assert ran.code == 2
    assert "add --yes" in ran.err
    assert invoke("ls", url, "--count").out == "5\n"


def test_clear_of_everything_has_to_be_said(url: str, server: ValkeyServer, invoke: Invoke) -> None:
    for arguments in ([], [""], ["lc1@", "--all"]):
        assert invoke("clear", url, *arguments, "--yes").code == 2
    assert invoke("clear", url, "--all", "--yes").code == 0
    assert key_count(server) == 0
