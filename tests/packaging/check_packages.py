"""Builds the sdist and a wheel from it, installs the wheel into an empty environment and uses it there.

Run by `make package`. What the tests cannot see from a source tree shows here: a file missing from the sdist,
a package missing from the wheel, a driver imported by accident, a missing extra reported as a bare traceback.

This file has two parts. Without an argument, it builds and installs. With `inside`, it runs in the empty environment,
from an empty directory, and may import the library.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NoReturn

DISTRIBUTION: Final = "lmcache-connect"
PACKAGES: Final = (
    "lmcache_connect",
    "lmcache_connect_composition",
    "lmcache_connect_redis",
    "lmcache_connect_trials",
    "lmcache_connect_external",
    "lmcache_connect_s3",
    "lmcache_reference_connectors",
)
# Not installed by the core dependencies, so that an import of one of them in the core shows.
ABSENT: Final = (
    "aiohttp",
    "botocore",
    "fastapi",
    "hypothesis",
    "numpy",
    "opentelemetry",
    "prometheus_client",
    "pytest",
    "redis",
    "rich",
    "torch",
    "trustme",
    "typer",
    "uvicorn",
    "uvloop",
)
# What `import lmcache_connect` must not import even where it is installed.
HEAVY: Final = ("aiohttp", "botocore", "fastapi", "numpy", "opentelemetry", "prometheus_client", "redis", "torch")
# Where a module may need an extra. Everywhere else it must import with the core dependencies alone.
OPTIONAL: Final = (
    "lmcache_connect.cli",
    "lmcache_connect.compat",
    "lmcache_connect.engines",
    "lmcache_connect.internal_api_server",
    "lmcache_connect.oversight",
    "lmcache_connect.testing",
    "lmcache_connect_redis",
    "lmcache_connect_s3",
    "lmcache_reference_connectors",
)
# In every sdist; a folder only where the tree has it.
SDIST_FILES: Final = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "PKG-INFO",
    "README.md",
    "pyproject.toml",
    "mkdocs.yaml",
    "requirements-bench.txt",
    "requirements-demo.txt",
    "requirements-docs.txt",
    "requirements-release.txt",
    "requirements.lock",
)
SDIST_FOLDERS: Final = ("adapters", "benchmarks", "compose", "docs", "examples", "reference_connectors", "tests")

ROOT: Final = Path(__file__).resolve().parent.parent.parent


def fail(message: str) -> NoReturn:
    sys.exit(f"check_packages: FAILED: {message}")


def step(message: str) -> None:
    print(f"check_packages: {message}", flush=True)


# ---------------------------------------------------------------------------------------- in the source tree


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command whose output is of interest only when it fails."""
    # With the caller's PYTHONPATH, the source tree could be imported instead of the wheel.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        print(done.stdout, flush=True)
        fail(f"exit status {done.returncode} from: {' '.join(map(str, command))}")


def only(found: Iterable[Path], what: str) -> Path:
    match list(found):
        case [path]:
            return path
        case paths:
            fail(f"expected one {what}, found {[path.name for path in paths]}")


def build(work: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel built from what the sdist holds."""
    dist = work / "dist"
    # Without isolation: the build backend is in the lock file, like everything else.
    builder = (sys.executable, "-m", "build", "--no-isolation", "--outdir", dist)
    run(*builder, "--sdist", ROOT, cwd=work)
    sdist = only(dist.glob("*.tar.gz"), "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "unpacked", filter="data")
    source = only((work / "unpacked").iterdir(), "folder in the sdist")
    run(*builder, "--wheel", source, cwd=work)
    wheel = only(dist.glob("*.whl"), "wheel")
    check_sdist(source)
    check_wheel(wheel)
    return sdist, wheel


def check_sdist(source: Path) -> None:
    folders = [name for name in SDIST_FOLDERS if any(path.is_file() for path in (ROOT / name).rglob("*"))]
    if missing := [name for name in (*SDIST_FILES, *folders) if not (source / name).exists()]:
        fail(f"not in the sdist: {', '.join(missing)}")
    step(f"built {source.name}.tar.gz, complete")


def check_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    if tops != set(PACKAGES):
        fail(f"the wheel holds {sorted(tops)}, expected {sorted(PACKAGES)}")
    required = {f"{package}/{name}" for package in PACKAGES for name in ("__init__.py", "py.typed")}
    if missing := sorted(required - names):
        fail(f"not in the wheel: {', '.join(missing)}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        fail("the wheel holds no licence")
    step(f"built {wheel.name} from it, holding {', '.join(sorted(tops))}")


def constraints(lock: str) -> str:
    """The lock's versions without hashes and extras, neither of which a constraints file may hold."""
    lines = [line.rstrip("\\ \t") for line in lock.splitlines()]
    return "".join(re.sub(r"\[[^\]]*\]", "", line, count=1) + "\n" for line in lines if line and line[0].isalnum())


def install(wheel: Path, work: Path) -> Path:
    """An environment with the wheel and its core dependencies, at the versions of the lock; its Python."""
    versions = work / "constraints.txt"
    versions.write_text(constraints((ROOT / "requirements.lock").read_text(encoding="utf-8")), encoding="utf-8")
    home = work / "environment"
    venv.create(home, with_pip=True, symlinks=os.name == "posix")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--constraint", versions, wheel, cwd=work)
    run(*pip, "check", cwd=work)
    step("installed the wheel and its core dependencies into an empty environment")
    return python


def check_command(python: Path, cwd: Path) -> None:
    """Without its extra, the command says what to install instead of ending in a traceback."""
    command = python.with_name(DISTRIBUTION + python.suffix)
    done = subprocess.run(
        [command, "--help"],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = done.stdout + done.stderr
    if done.returncode != 0 and f"{DISTRIBUTION}[cli]" not in output:
        print(output, flush=True)
        fail(f"`{DISTRIBUTION} --help` without its extra does not name {DISTRIBUTION}[cli]")
    step(f"`{DISTRIBUTION} --help` " + ("works" if done.returncode == 0 else "names the extra it needs"))


def check_packages() -> None:
    with tempfile.TemporaryDirectory(prefix="check-packages-") as folder:
        work = Path(folder)
        sdist, wheel = build(work)
        python = install(wheel, work)
        elsewhere = work / "elsewhere"
        elsewhere.mkdir()
        script = shutil.copy(__file__, elsewhere)
        # -I: no module may come from PYTHONPATH or from the script's folder.
        inside = subprocess.run([python, "-I", script, "inside"], cwd=elsewhere, timeout=300, check=False)
        if inside.returncode != 0:
            sys.exit(inside.returncode)  # it has printed why
        check_command(python, elsewhere)
        (ROOT / "dist").mkdir(exist_ok=True)
        for path in (sdist, wheel):
            shutil.copy(path, ROOT / "dist")
    step(f"passed; dist/ holds {sdist.name} and {wheel.name}")


# ----------------------------------------------------------------------------------- in the empty environment


def module_names(folder: Path, package: str) -> Iterator[str]:
    """Every module of a package, without importing any: one that fails must not hide those inside it."""
    yield package
    for info in pkgutil.iter_modules([str(folder)], prefix=f"{package}."):
        if info.ispkg:
            yield from module_names(folder / info.name.rpartition(".")[2], info.name)
        elif not info.name.endswith(".__main__"):  # importing that one runs a program
            yield info.name


def check_absent() -> None:
    if present := [name for name in ABSENT if importlib.util.find_spec(name) is not None]:
        fail(f"the core dependencies bring in {', '.join(present)}")
    step(f"not installed, as it should be: {', '.join(ABSENT)}")


def check_light() -> None:
    importlib.import_module(PACKAGES[0])
    if loaded := [name for name in HEAVY if name in sys.modules]:
        fail(f"`import {PACKAGES[0]}` imports {', '.join(loaded)}")
    step(f"`import {PACKAGES[0]}` imports none of {', '.join(HEAVY)}")


def check_modules() -> None:
    extras = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra", [])
    named = tuple(f"{DISTRIBUTION}[{extra}]" for extra in extras)
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            fail(f"{package} is not installed")
        imported, waiting = 0, 0
        for name in module_names(Path(spec.origin).parent, package):
            try:
                importlib.import_module(name)
            except ImportError as error:
                if not any(name == part or name.startswith(f"{part}.") for part in OPTIONAL):
                    fail(f"{name} does not import with the core dependencies: {error}")
                # `cli.main` looks for both before it imports a command; `check_command` has seen what it says.
                is_behind_main = name.startswith("lmcache_connect.cli.") and error.name in {"typer", "rich"}
                says_what_to_do = (
                    is_behind_main
                    or type(error).__name__ == "MissingEngineError"
                    or any(extra in str(error) for extra in named)
                )
                if not says_what_to_do:
                    fail(f"{name} does not import, and its error names no extra of {DISTRIBUTION}: {error!r}")
                waiting += 1
            except Exception as error:
                fail(f"importing {name} raises {error!r}")
            else:
                imported += 1
        step(f"{package}: {imported} modules imported, {waiting} say which extra or engine they need")


async def use_memory_connector() -> None:
    from lmcache_connect import ConnectorManager

    key, payload = "model@1@0@abc@bfloat16", bytes(range(256)) * 8
    async with ConnectorManager("memory://test") as manager:
        connector = manager.create_connector()
        backend = manager.local_cpu_backend
        chunk = backend.allocate((2, 4, 8, 16), "bfloat16")
        if chunk is None:
            fail("allocate() of 2 KiB returned None")
        with chunk:
            chunk.byte_array[:] = payload
            await connector.put(key, chunk)
        step(f"put {len(payload)} bytes through the manager's memory connector")
        got = await connector.get(key)
        if got is None:
            fail("the chunk that was put is a miss")
        with got:
            if bytes(got.byte_array) != payload:
                fail("the chunk that came back differs from the one that was put")
        step("got the same bytes back")
        if await connector.get("missing") is not None:
            fail("a key that was never put is a hit")
        step("a key that was never put is a miss")


def check_inside() -> None:
    check_absent()
    check_light()
    check_modules()
    asyncio.run(use_memory_connector())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("build", "inside"), default="build")
    part = parser.parse_args().part
    if part == "inside":
        check_inside()
    else:
        check_packages()


if __name__ == "__main__":
    main()
