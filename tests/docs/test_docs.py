"""What the README and the documentation say is run here, or compared with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from lmcache_connect import ConnectorConfig, ConnectorManager
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
from lmcache_connect.testing import FaultKind, redis_faults, s3_faults
from lmcache_connect_composition.hot_adapter import HotOptions
from lmcache_connect_redis.cluster.options import RedisClusterOptions
from lmcache_connect_redis.options import RedisOptions
from lmcache_connect_redis.sentinel.options import SentinelOptions
from lmcache_connect_s3.options import S3Options
from lmcache_connect_trials.audit_options import AuditOptions
from lmcache_connect_trials.fault_adapter import FaultOptions
from lmcache_connect_trials.mock import MockOptions

ROOT = Path(__file__).parents[2]


def code_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_readmes_first_program_runs_as_written(valkey_url: str) -> None:
    program = code_blocks("README.md")[0].replace("redis://localhost:6379", valkey_url)
    for _ in ("a miss", "a hit"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.stderr == ""
        assert done.stdout == "(2, 32, 256, 1024) float16\n"
    with ConnectorManager(valkey_url) as manager, manager.create_connector().sync.chunk("prompt-1") as chunk:
        assert (chunk.numpy() == 1).all()
    assert len([line for line in program.split("async def main")[1].splitlines()[1:] if line]) <= 10


def test_the_readmes_conformance_class_runs_as_written(tmp_path: Path) -> None:
    file = tmp_path / "test_mine.py"
    (program,) = [block for block in code_blocks("README.md") if "ConnectorConformance" in block]
    file.write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


@pytest.mark.parametrize(
    ("page", "heading", "model"),
    [
        ("operating", "## URL options", RedisOptions),
        ("operating", "## Settings", ConnectorConfig),
        ("operating", "### audit", AuditOptions),
        ("operating", "### fault", FaultOptions),
        ("operating", "### mock", MockOptions),
        ("internal-api", "## Server settings", APIServerConfig),
        ("s3", "## Options", S3Options),
        ("hot-cache", "## Options", HotOptions),
        ("sentinel", "## Options", SentinelOptions),
        ("cluster", "## Options", RedisClusterOptions),
    ],
)
def test_the_operators_pages_list_every_option_with_its_default(
    page: str, heading: str, model: type[BaseModel]
) -> None:
    section = re.split(r"\n##+ ", (ROOT / f"docs/{page}.md").read_text().split(f"\n{heading}\n")[1])[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (`[^`]*`|) ?\|", section, flags=re.MULTILINE))
    expected = {}
    listed_elsewhere = RedisOptions.model_fields if model.__base__ is RedisOptions else {}
    for name, field in model.model_fields.items():
        if name in listed_elsewhere:
            continue
        default = field.default if field.default_factory is None else {}
        expected[name] = "" if default is None else f"`{default}`"
    assert rows == expected


def test_the_program_on_the_page_of_callers_memory_runs_as_written() -> None:
    (program,) = code_blocks("docs/caller-memory.md")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    assert f"prints `{done.stdout.strip()}`" in (ROOT / "docs/caller-memory.md").read_text()


PAGES = [*(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md"), ROOT / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("number", range(3))
def test_the_programs_on_the_page_of_the_internal_api_run_as_written(number: int) -> None:
    programs = code_blocks("docs/internal-api.md")
    assert len(programs) == 3
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", programs[number]], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""


def test_the_page_of_the_internal_api_names_every_route() -> None:
    page = (ROOT / "docs/internal-api.md").read_text()
    with ConnectorManager("memory://docs") as manager:
        paths = InternalAPIServer(manager).app.openapi()["paths"]
    named = {(method, path.partition("?")[0]) for method, path in re.findall(r"`(GET|PUT|POST|DELETE) (/[^`]*)`", page)}
    assert named == {(method.upper(), path) for path, methods in paths.items() for method in methods} | {("GET", "/")}


@pytest.mark.parametrize("number", range(2))
def test_the_programs_on_the_page_of_fault_testing_run_as_written(number: int) -> None:
    programs = code_blocks("docs/fault-testing.md")
    assert len(programs) == 2
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", programs[number]], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    assert not done.returncode
    if number == 0:
        assert done.stdout.count("\n") == 3, "each fault has its line"
        assert "found, and right" in done.stdout


def test_the_page_of_fault_testing_names_every_fault() -> None:
    page = (ROOT / "docs/fault-testing.md").read_text()
    for module, base in ((redis_faults, redis_faults.ReplyFault), (s3_faults, s3_faults.Fault)):
        kinds = [found for found in vars(module).values() if isinstance(found, type) and issubclass(found, base)]
        assert len(kinds) > 5
        for kind in kinds:
            assert kind is base or re.search(rf"\b{kind.__name__}\b", page), kind
    for name in FaultKind.__members__:
        assert re.search(rf"\b{name}\b", page), name
