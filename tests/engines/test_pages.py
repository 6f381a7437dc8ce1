"""What the pages about ports and keys say is true of the code."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from lmcache_connect import ConnectorConfig
from lmcache_connect.engines import job_line
from lmcache_connect.engines.identity import Identity
from lmcache_connect.engines.jobs import JobPort
from lmcache_connect.engines.namespace import Namespace
from lmcache_connect.engines.port_settings import port_settings

from .test_namespace import KNOWN

ROOT: Final = Path(__file__).resolve().parents[2]
PORT: Final = (ROOT / "docs/job-port.md").read_text(encoding="utf-8")
KEYS: Final = (ROOT / "docs/engines-keys.md").read_text(encoding="utf-8")


def rows(page: str, heading: str) -> dict[str, str]:
    """The first two columns of the first table below a heading."""
    section = page.split(f"\n{heading}\n")[1]
    table = re.search(r"(?:^\|.*\n)+", section, flags=re.MULTILINE)
    assert table is not None
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", table.group(), flags=re.MULTILINE))


def test_the_program_on_the_page_runs_as_written(valkey_url: str) -> None:
    found = re.search(r"^```python\n(.*?)^```\n\n    (.*?)\n", PORT, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    program = found[1].replace("redis://localhost:6379", valkey_url)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == (f"{found[2]}\n", "")


def test_the_page_lists_every_option_with_its_default() -> None:
    options = {
        name: f"`{parameter.default}`"
        for name, parameter in inspect.signature(JobPort.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert rows(PORT, "## Options") == options


def test_the_page_lists_every_setting_whose_default_is_another_one() -> None:
    section = PORT.split("\n| setting | default |\n")[1].split("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE))
    plain, ports = ConnectorConfig(), port_settings(5.0, {})
    assert named >= {name for name in ConnectorConfig.model_fields if getattr(plain, name) != getattr(ports, name)}
    assert (ports.operation_timeout, ports.stall_timeout, ports.retries, ports.breaker_failures) == (4.0, 1.25, 1, 3)
    long = port_settings(100.0, {"retries": 5})
    assert (long.operation_timeout, long.stall_timeout, long.retries, long.errors) == (10.0, 3.0, 5, "raise")
    assert job_line.MOST_STORES == 4


def test_the_page_lists_every_word_and_every_event() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "lmcache_connect/engines").glob("*.py")]
    ports = "\n".join(sources)
    words = set(re.findall(r'(?:fail\(|why = [\w.]+ or |_end_jobs\(.*?, )"(\w+)"', ports))
    words |= set(re.findall(r'^    "(\w+)": "', ports.split("\nWHY: Final = {")[1].split("}")[0], flags=re.MULTILINE))
    assert set(rows(PORT, "## Why a job has failed")) == words
    events = set(re.findall(r'(?:RepeatedEvent\(|event\(\s*logging\.\w+,\s*)"(\w+)"', ports))
    assert events <= set(rows(PORT, "## In the log"))
    assert events >= {"engine_job_late", "engine_store_not_closed", "identity_unknown"}


def test_the_page_lists_every_field_of_an_identity() -> None:
    assert tuple(rows(KEYS, "## The identity")) == Identity.field_names()


def test_the_key_on_the_page_is_one_that_is_made() -> None:
    assert f"    {Namespace(KNOWN).prefix}5f1c" in KEYS
