"""The page for SGLang says what the code does: its options, its command line, its log lines."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from lmcache_connect.engines.sglang.options import Options

from .conftest import Start, keys_of
from .pools import MHAPool

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/engines-sglang.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return re.split(r"\n##+ ", PAGE.split(f"\n## {heading}\n")[1])[0]


def test_it_lists_every_option_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (`[^`]*`|) ?\|", section("Options"), flags=re.MULTILINE))
    expected = {}
    for field in dataclasses.fields(Options):
        default = field.default if field.default_factory is dataclasses.MISSING else {}
        expected[field.name] = "" if default is dataclasses.MISSING else f"`{default}`"
    del expected["settings"]
    assert rows == expected


def test_its_command_line_starts_a_backend(start: Start) -> None:
    [text] = re.findall(r"--hicache-storage-backend-extra-config '(\{.*?\})'", PAGE, flags=re.DOTALL)
    given: dict[str, Any] = json.loads(text)
    assert given.pop("url").startswith("redis://")
    assert given["module_path"] == "lmcache_connect.engines.sglang"
    pool = MHAPool()
    backend = start(pool, **given)

    assert backend.batch_set_v1(keys_of(1), pool.indices([0])) == [True]
    assert backend.status()["pools"]["kv"]["pages"]["unknown"] == []


def test_the_log_lines_that_it_names_are_the_codes() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "lmcache_connect").rglob("*.py"))
    rows = [row.split("|") for row in section("When something is wrong").splitlines() if row.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[-2])}
    assert len(named) > 6
    assert [name for name in sorted(named) if f'"{name}"' not in source] == []
