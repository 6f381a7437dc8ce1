"""Every command and every option explains itself in plain sentences."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any, Final

import pytest
import typer.main

from lmcache_connect.cli.app import app

from ..docs.language import sentences, words_to_avoid
from .conftest import run

MAX_WORDS: Final = 25


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its name, such as `ping` or `config show`."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS: Final[dict[str, Any]] = dict(commands(typer.main.get_command(app)))

NAMES: Final = """
    bench
    check
    clear
    config init
    config show
    cp
    demo
    doctor
    du
    engines
    get
    inspect
    ls
    ping
    plugins
    put
    rm
    schemes
    serve
    soak
"""


def texts(command: Any) -> dict[str, str]:
    """The help of the command itself and of each option that it shows."""
    shown = {option.opts[-1]: option.help or "" for option in command.params if not getattr(option, "hidden", False)}
    return {"": command.help or "", **shown}


def test_the_commands_are_these() -> None:
    assert sorted(COMMANDS) == [name.strip() for name in NAMES.strip().splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_config_and_examples_that_it_understands(name: str) -> None:
    command = COMMANDS[name]
    assert {"--json", "--config"} <= {option for parameter in command.params for option in parameter.opts}
    lines = [line.strip() for line in command.epilog.splitlines()[2:]]
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "lmcache-connect"
        assert arguments[: len(name.split())] == name.split()
        command.make_context(name, arguments[len(name.split()) :], resilient_parsing=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_40_columns(name: str) -> None:
    context = COMMANDS[name].make_context(name, [], resilient_parsing=True, terminal_width=39)
    text = context.get_help().partition("  Examples:")[0]
    assert all(len(line) <= 40 for line in text.splitlines()[1:]), text


def test_the_help_is_as_wide_as_the_terminal() -> None:
    text = run("ping", "-h", env={"COLUMNS": "40"}).out.partition("  Examples:")[0]
    assert 30 < max(len(line) for line in text.splitlines()) <= 40


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text_of_whole_sentences(name: str) -> None:
    for option, text in texts(COMMANDS[name]).items():
        assert re.match(r"[A-Z/].*\.$", text, re.DOTALL), f"{name} {option}: {text!r}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_sentences_are_short_and_plain(name: str) -> None:
    for option, text in texts(COMMANDS[name]).items():
        assert not list(words_to_avoid(text)), f"{name} {option}: {text}"
        for sentence in sentences(text):
            assert len(sentence.split()) <= MAX_WORDS, f"{name} {option}: {sentence}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_first_what_it_does(name: str) -> None:
    assert texts(COMMANDS[name])[""].split()[0] not in {"A", "An", "It", "The", "This"}, "begin with a verb"


@pytest.mark.parametrize(
    "name", sorted({"check", "demo", "engines", "ping", "schemes", "serve", "doctor", "config show", "config init"})
)
def test_a_command_that_can_fail_lists_its_exit_codes(name: str) -> None:
    assert re.search(r"Exits with 0 (if|when) .*, 2 if", " ".join(texts(COMMANDS[name])[""].split()))
