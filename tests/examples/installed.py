"""A package of `examples/`, built and installed into a folder of its own, and programs that find it there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

TIMEOUT: Final = 110
"""Seconds for a program, on a busy machine."""

ROOT: Final = Path(__file__).resolve().parents[2]


def install(source: Path, target: Path) -> None:
    """Builds the wheel from a copy of `source` and unpacks it into `target`. Asks no package index."""
    copy = target.with_name(f"{target.name}-source")
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    run([*pip, *offline, str(copy)], target.parent)


def run(command: list[str], folder: Path, *path: Path) -> str:
    """The standard output of a program that runs in `folder` and imports from `path` as well; it must succeed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LMCACHE_CONNECT_", "PYTEST_"))}
    # What this process imports from is kept: it may run beside an environment that is not the project's own.
    inherited = os.environ.get("PYTHONPATH")
    parts = [*map(str, path), *([inherited] if inherited else [])]
    environment = {**clean, "PYTHONPATH": os.pathsep.join(parts), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def run_pytest(folder: Path, *arguments: str, path: Sequence[Path] = ()) -> str:
    """The outcome of pytest on the tests in `folder`, with further arguments."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *arguments]
    return run(command, folder, *path)
