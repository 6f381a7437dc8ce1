"""A package's face, its `__init__.py`, says the truth about who imports it, and exports what somebody uses.

The layers say who may import what: see `test_imports_point_down.py`, whose reading of the source is used here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import Final

import pytest

from .test_imports_point_down import CORE, MODULES, ROOT, belongs_to, constants_of, imports, top, unit

FACES: Final = sorted(f"{CORE}.{path.parent.name}" for path in (ROOT / CORE).glob("*/__init__.py"))

EXAMPLES: Final = sorted((ROOT / "examples").rglob("*.py"))
PAGES: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

USED_OTHERWISE: Final[dict[str, str]] = {
    "lmcache_connect.compat.find_dialect": "`manager.builtin` imports the package by name, and takes this from it",
}
"""Exports that no import and no page names, and why they stay."""


def package_of(module: str) -> str:
    """How a face calls the package that a module belongs to: `memory`, `lmcache_connect` or an adapter's name."""
    return (unit(module) if belongs_to(module, CORE) else "") or top(module)


@cache
def imported() -> frozenset[tuple[str, str, str | None]]:
    """Every import by a module of the wheel: the package that it is in, the module that it names, the name."""
    found: set[tuple[str, str, str | None]] = set()
    for module, path in MODULES.items():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        is_package = path.name == "__init__.py"
        for item in imports(module, body, constants_of(body), is_package=is_package):
            found.add((package_of(module), item.module, item.name))
    return frozenset(found)


def importers(face: str) -> set[str]:
    """The other packages of the wheel that import a package, by the names that faces use."""
    return {package for package, module, _ in imported() if belongs_to(module, face)} - {package_of(face)}


def sentences_about_importers(docstring: str) -> Iterator[set[str]]:
    """For each sentence that says who imports the package, the packages that it names."""
    text = " ".join(docstring.split())
    for sentence in re.findall(r"\bImported by [^.;]*[.;]", text):
        yield set(re.findall(r"`(\w+)`", sentence))
    if re.search(r"\b(?:Nothing imports this package|No package imports this one)\b", text):
        yield set()


def code_of(page: str) -> str:
    """A page's code: its fenced and indented blocks, and what stands between backticks."""
    blocks = re.findall(r"^```.*?^```|^    .*?$", page, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`[^`\n]+`", page)])


@cache
def named_for_users() -> frozenset[str]:
    """Every word in the examples, and in the code on the pages."""
    text = "\n".join(
        [
            *(path.read_text(encoding="utf-8") for path in EXAMPLES),
            *(code_of(path.read_text(encoding="utf-8")) for path in PAGES),
        ]
    )
    return frozenset(re.findall(r"\w+", text))


def exports(face: str) -> list[str]:
    """The names in a face's `__all__`."""
    for statement in ast.parse(MODULES[face].read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=elements)):
                return [str(element.value) for element in elements if isinstance(element, ast.Constant)]
            case _:
                pass
    return []


@pytest.mark.parametrize("face", FACES)
def test_what_a_face_says_of_its_importers_is_true(face: str) -> None:
    docstring = ast.get_docstring(ast.parse(MODULES[face].read_text(encoding="utf-8"))) or ""
    for named in sentences_about_importers(docstring):
        assert named == importers(face)


@pytest.mark.parametrize("face", FACES)
def test_a_face_exports_only_what_is_used(face: str) -> None:
    used = {name for package, module, name in imported() if module == face and package != package_of(face)}
    unused = [
        name
        for name in exports(face)
        if name not in used and name not in named_for_users() and f"{face}.{name}" not in USED_OTHERWISE
    ]
    assert not unused, f"no other package imports these, and no page or example names them: {', '.join(unused)}"


def test_an_exception_to_the_rule_is_still_exported_and_still_needed() -> None:
    for name in USED_OTHERWISE:
        face, _, export = name.rpartition(".")
        assert export in exports(face)
        assert export not in named_for_users()


def test_a_sentence_about_importers_is_read() -> None:
    assert list(sentences_about_importers("X. Imported by `a`, and by\n`b`. Uses `c`.")) == [{"a", "b"}]
    assert list(sentences_about_importers("X. Nothing imports this package.")) == [set()]
    assert list(sentences_about_importers("X. Every package above may import it.")) == []
