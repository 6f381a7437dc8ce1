"""The workflows of a public host: pinned actions, few rights, and targets that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))

if not WORKFLOWS:
    pytest.skip("an sdist has no workflows", allow_module_level=True)


@pytest.fixture(params=WORKFLOWS, ids=[path.name for path in WORKFLOWS])
def workflow(request: pytest.FixtureRequest) -> str:
    path: Path = request.param
    return path.read_text(encoding="utf-8")


def test_every_action_is_pinned_by_its_commit_and_the_version_is_said(workflow: str) -> None:
    uses = re.findall(r"uses: (.+)", workflow)
    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []


def test_a_workflow_reads_and_only_a_job_is_given_more(workflow: str) -> None:
    assert re.findall(r"^permissions:\n((?:  .*\n)+)", workflow, re.MULTILINE) == ["  contents: read\n"]


def test_every_job_has_a_time_limit(workflow: str) -> None:
    jobs = workflow.partition("\njobs:\n")[2]
    names = re.findall(r"^  ([\w-]+):$", jobs, re.MULTILINE)
    assert names
    assert len(re.findall(r"^    timeout-minutes: \d+$", jobs, re.MULTILINE)) == len(names)


def test_every_target_that_a_workflow_makes_is_in_the_makefile(workflow: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    made = set(re.findall(r"run: make ([a-z][a-z-]*)", workflow)) | set(re.findall(r"target: ([a-z-]+)", workflow))
    assert made - targets == set()


def test_every_python_that_the_package_names_is_tested() -> None:
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    tested = re.search(r"python: \[(.+)\]", (ROOT / ".github/workflows/ci.yaml").read_text("utf-8"))
    assert tested is not None
    assert re.findall(r"3\.\d+", tested[1]) == named
