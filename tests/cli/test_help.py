"""Every command and every option explains itself in plain sentences."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
import typer.main

from lmcache_connect.cli.app import app

from ..docs.language import sentences, words_to_avoid

MAX_WORDS: Final = 25
COMMANDS: Final[dict[str, Any]] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def texts(command: Any) -> dict[str, str]:
    """The help of the command itself and of each option that it shows."""
    shown = {option.opts[-1]: option.help or "" for option in command.params if not getattr(option, "hidden", False)}
    return {"": command.help or "", **shown}


def test_the_commands_are_these() -> None:
    assert sorted(COMMANDS) == [
        *("check", "clear", "demo", "du", "engines", "inspect", "ls", "ping", "plugins", "rm", "schemes", "serve")
    ]


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


@pytest.mark.parametrize("name", sorted({"check", "demo", "engines", "ping", "serve"}))
def test_a_command_that_can_fail_lists_its_exit_codes(name: str) -> None:
    assert re.search(r"Exits with 0 (if|when) .*, 2 if", " ".join(texts(COMMANDS[name])[""].split()))
