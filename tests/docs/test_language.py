"""The project's language: plain technical English, and one word for one thing.

Every Python file and every page is read for words that name several things or none, and for docstrings whose
sentences are too long to be understood at first reading. A complaint names the file, the line, the word, and what to
write instead.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from .language import MAX_WORDS, sentences, words_to_avoid

ROOT: Final = Path(__file__).parents[2]

FOLDERS: Final = (
    "lmcache_connect",
    "adapters",
    "reference_connectors",
    "tests",
    "benchmarks",
    "examples",
    "docs",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    ".ci/run",
)


EXEMPT: Final = {Path(__file__), Path(__file__).with_name("language.py")}
"""They name the words."""


def files() -> list[Path]:
    """Every Python file and every page that the rules hold for."""
    found = []
    for name in FOLDERS:
        path = ROOT / name
        found += [path] if path.is_file() else [*path.rglob("*.py"), *path.rglob("*.md")]
    return sorted({path for path in found if "results" not in path.parts} - EXEMPT)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Every string that stands as a statement of its own: docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text
            case _:
                pass


def long_sentences(source: str) -> Iterator[tuple[int, str]]:
    for line, docstring in docstrings(source):
        for sentence in sentences(docstring):
            if (count := len(sentence.split())) > MAX_WORDS:
                yield line, f"a sentence of {count} words, at most {MAX_WORDS}: {' '.join(sentence.split()[:8])} ..."


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_text_is_plain_english(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = [*words_to_avoid(text), *(long_sentences(text) if path.suffix == ".py" else ())]
    assert not found, "\n".join(f"{path.relative_to(ROOT)}:{line}: {complaint}" for line, complaint in sorted(found))


@pytest.mark.parametrize(
    "text", ["# It is made anew.", "x = 1  # whoever\n", "self._lent = None", "They are\n    # no parts.", "is no part"]
)
def test_a_word_to_avoid_is_found(text: str) -> None:
    assert len(list(words_to_avoid(text))) == 1


@pytest.mark.parametrize(
    "text", ["It is not there.", "the size is no longer known", "There is no server.", "silent talent", "is None: no"]
)
def test_other_words_are_left_alone(text: str) -> None:
    assert list(words_to_avoid(text)) == []


def test_a_long_sentence_in_a_docstring_is_found() -> None:
    assert len(list(long_sentences(f'"""{"word " * 46}."""'))) == 1
    assert list(long_sentences(f'"""{"word " * 40}. {"word " * 40}."""')) == []
