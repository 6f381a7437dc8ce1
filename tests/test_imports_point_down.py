"""Imports point down and go through faces, and no two files import each other.

A package imports from itself and from the packages below it, and of another package only what that package's
`__init__.py` gives: its face. Read off the source with `ast`, so that an import inside a function counts as well, and
so does `import_module(CONSTANT)`: put off until a call, an upward import is still one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

CORE: Final = "lmcache_connect"

# From the bottom up. A name stands for the module lmcache_connect.<name> or, for a package, everything in it.
LAYERS: Final[tuple[tuple[str, ...], ...]] = (
    ("_version", "known_secrets"),
    ("errors",),
    ("checkpoint", "computed", "process"),
    ("lease",),
    ("redaction", "dtypes", "keys"),
    ("url", "metadata"),
    ("observability",),
    ("config",),
    ("transport",),
    ("memory",),
    ("record",),
    ("loop",),
    ("outside",),
    ("contract",),
    ("streaming",),
    ("foreign",),
    ("managed",),
    ("manager",),
    ("oversight",),
    ("",),  # lmcache_connect/__init__.py: the public names
    ("compat",),
    ("engines",),
    ("internal_api_server",),
    ("testing",),
    ("cli",),
)

# Narrower than the layers: this one may import these and itself, and nothing else of ours.
ONLY: Final[dict[str, frozenset[str]]] = {
    "known_secrets": frozenset(),
    "observability": frozenset({"_version", "known_secrets", "process"}),
    "transport": frozenset({"errors", "lease", "process"}),
    "record": frozenset({"errors", "dtypes", "metadata", "memory"}),
}

# The only modules that may name what stands above them, or an adapter package, in strings that are imported on first
# use. `builtin` names the adapters of this distribution: its user chooses one by a scheme. `compat_bridge` names
# `compat`: a connector that was written for LMCache needs it, and a process without one must not import it.
TABLES: Final = frozenset({f"{CORE}.manager.builtin", f"{CORE}.manager.compat_bridge"})

ROOT: Final = Path(__file__).resolve().parent.parent
PLUG_IN_FOLDERS: Final = ("adapters", "reference_connectors")  # folders on the import path, never packages


@dataclass(frozen=True)
class Import:
    """One imported name. `name` is None for `import module`, "*" for a star import."""

    line: int
    module: str
    name: str | None
    for_types_only: bool
    is_by_name: bool = False
    """Whether it is an `import_module(...)`."""


# ------------------------------------------------------------------------------------------------- the source


def plug_in_packages() -> dict[str, Path]:
    """The adapter and reference connector packages, by import name."""
    return {
        init.parent.name: init.parent
        for folder in PLUG_IN_FOLDERS
        for init in sorted((ROOT / folder).glob("*/__init__.py"))
    }


def modules() -> dict[str, Path]:
    """Every module of every package of the wheel, by dotted name."""
    found: dict[str, Path] = {}
    for package, folder in {CORE: ROOT / CORE, **plug_in_packages()}.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def absolute(module: str, is_package: bool, level: int, target: str | None) -> str:
    """What `from <dots><target> import` in `module` refers to."""
    if level == 0:
        return target or ""
    parts = module.split(".")
    anchor = parts[: len(parts) - level + is_package]
    return ".".join((*anchor, target) if target else anchor)


def text_of(node: ast.expr, constants: dict[str, str]) -> str | None:
    """What an expression says, where it is a string, the name of a constant, or an f-string of such."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            return constants.get(name)
        case ast.JoinedStr(values=parts):
            texts = [text_of(part.value if isinstance(part, ast.FormattedValue) else part, constants) for part in parts]
            return None if None in texts else "".join(text or "" for text in texts)
        case _:
            return None


def constants_of(body: list[ast.stmt]) -> dict[str, str]:
    """The module's string constants, by name."""
    found: dict[str, str] = {}
    for statement in body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                if (text := text_of(value, found)) is not None:
                    found[name] = text
            case _:
                pass
    return found


def imports(
    module: str,
    body: list[ast.stmt],
    constants: dict[str, str],
    *,
    is_package: bool = False,
    for_types_only: bool = False,
) -> Iterator[Import]:
    """Every import in these statements, `import_module(...)` of a literal or a constant included."""
    for statement in body:
        if isinstance(statement, ast.If) and is_type_checking(statement.test):
            yield from imports(module, statement.body, constants, is_package=is_package, for_types_only=True)
            yield from imports(
                module, statement.orelse, constants, is_package=is_package, for_types_only=for_types_only
            )
            continue
        nested: list[ast.stmt] = []
        waiting: list[ast.AST] = [statement]
        while waiting:
            match node := waiting.pop():
                case ast.Import(names=names):
                    for alias in names:
                        yield Import(node.lineno, alias.name, None, for_types_only)
                case ast.ImportFrom(module=target, names=names, level=level):
                    source = absolute(module, is_package, level, target)
                    for alias in names:
                        yield Import(node.lineno, source, alias.name, for_types_only)
                case ast.Call(
                    func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                    args=[argument, *_],
                ) if (name := text_of(argument, constants)) is not None:
                    yield Import(node.lineno, name, None, for_types_only, is_by_name=True)
                case _:
                    pass
            for child in ast.iter_child_nodes(node):
                # Statements go through the loop above, which knows what `if TYPE_CHECKING` means.
                (nested if isinstance(child, ast.stmt) else waiting).append(child)  # type: ignore[arg-type]
        yield from imports(module, nested, constants, is_package=is_package, for_types_only=for_types_only)


# -------------------------------------------------------------------------------------------------- the rules


def unit(module: str) -> str:
    """The name that stands for a module in the table: `memory` for `lmcache_connect.memory.arena`."""
    return module.removeprefix(CORE).lstrip(".").partition(".")[0]


def layer(name: str) -> int | None:
    return next((height for height, names in enumerate(LAYERS) if name in names), None)


def top(module: str) -> str:
    return module.partition(".")[0]


def belongs_to(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def target_unit(imported: Import, known: frozenset[str]) -> str:
    """The table's name for what is imported; `from lmcache_connect import url` imports the module url."""
    if imported.module == CORE and imported.name is not None and f"{CORE}.{imported.name}" in known:
        return imported.name
    return unit(imported.module)


def faces(known: frozenset[str]) -> frozenset[str]:
    """The core's packages. Each has modules of its own, which only it imports."""
    return frozenset(name for module in known if module.count(".") > 1 and (name := unit(module)))


def passes_by_a_face(found: Import, known: frozenset[str]) -> bool:
    """Whether an import reaches a module inside a package."""
    package = unit(found.module)
    if package not in faces(known):
        return False
    face = f"{CORE}.{package}"
    return found.module != face or f"{face}.{found.name}" in known


def core_complaints(module: str, found: Import, known: frozenset[str], plug_ins: frozenset[str]) -> Iterator[str]:
    if top(found.module) in plug_ins and module not in TABLES:
        yield f"imports the plug-in package {found.module}; only strings in {', '.join(sorted(TABLES))} name one"
    if not belongs_to(found.module, CORE):
        return
    here, there = unit(module), target_unit(found, known)
    own, height = layer(here), layer(there)
    if own is None or height is None:
        yield f"{here if own is None else there!r} has no place in LAYERS, the table at the top of this test"
    elif not found.for_types_only and here != there:
        if height > own and not (found.is_by_name and module in TABLES):
            yield f"imports {found.module} from above"
        elif here in ONLY and there not in ONLY[here]:
            yield f"imports {found.module}; {here} may import {', '.join(sorted(ONLY[here]))} only"
        elif not found.is_by_name and passes_by_a_face(found, known):
            yield f"imports {found.name or 'it'} from inside a package; its face is {CORE}.{there}"


def plug_in_complaints(module: str, found: Import, known: frozenset[str], plug_ins: frozenset[str]) -> Iterator[str]:
    package = top(found.module)
    if package in plug_ins and package != top(module):
        yield f"imports the plug-in package {package}; each stands on lmcache_connect alone"
    if package != CORE:
        return
    if found.name is None:
        yield f"imports {found.module} whole; write `from {found.module} import <name>`"
    elif found.name == "*":
        yield f"imports * from {found.module}; name what is used"
    elif any(part.startswith("_") for part in (*found.module.split("."), found.name)):
        yield f"imports {found.name} from {found.module}, which is not public"
    elif passes_by_a_face(found, known):
        yield f"imports {found.name} from inside a package; its face is {CORE}.{unit(found.module)}"


def complaints(
    module: str, source: str, *, known: frozenset[str], plug_ins: frozenset[str], is_package: bool = False
) -> list[str]:
    """Every broken rule in the module's source, one line each."""
    body = ast.parse(source).body
    return [
        f"{module}, line {found.line}: {complaint}"
        for found in imports(module, body, constants_of(body), is_package=is_package)
        for complaint in (
            core_complaints(module, found, known, plug_ins)
            if belongs_to(module, CORE)
            else plug_in_complaints(module, found, known, plug_ins)
        )
    ]


def file_of(found: Import, known: frozenset[str]) -> str | None:
    """The module whose file an import runs."""
    if found.name is not None and f"{found.module}.{found.name}" in known:
        return f"{found.module}.{found.name}"
    return found.module if found.module in known else None


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, straight or through others: each circle once, sorted."""
    reached: dict[str, set[str]] = {}
    for start, targets in arrows.items():
        waiting, seen = [*targets], set[str]()
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += arrows.get(module, ())
        reached[start] = seen
    found = {tuple(sorted(b for b in seen if a in reached.get(b, ()))) for a, seen in reached.items() if a in seen}
    return [list(circle) for circle in sorted(found)]


def arrows() -> dict[str, set[str]]:
    """For each module the modules that it imports, also those for types alone.

    A face is imported for what is behind it, so it must not be imported inside its package.
    """
    found: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        is_package = path.name == "__init__.py"
        found[module] = {
            target
            for item in imports(module, body, constants_of(body), is_package=is_package)
            if not (item.is_by_name and module in TABLES) and (target := file_of(item, KNOWN)) and target != module
        }
    return found


# -------------------------------------------------------------------------------------------------- the tests

MODULES: Final = modules()
KNOWN: Final = frozenset(MODULES)
PLUG_INS: Final = frozenset(plug_in_packages())
# For the examples below, whatever is in the tree.
SAMPLE: Final = frozenset(
    {CORE, f"{CORE}.url", f"{CORE}.manager", f"{CORE}.manager.manager", f"{CORE}.memory", f"{CORE}.memory.arena"}
)
SAMPLE_PLUG_INS: Final = frozenset({"lmcache_connect_redis", "lmcache_reference_connectors"})


def test_every_package_of_the_wheel_is_found() -> None:
    assert {CORE, "lmcache_connect_redis", "lmcache_reference_connectors"} <= KNOWN


@pytest.mark.parametrize("folder", PLUG_IN_FOLDERS)
def test_a_plug_in_folder_is_not_a_package(folder: str) -> None:
    # The package index has a package called `adapters`, which ours would shadow.
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    path = MODULES[module]
    found = complaints(
        module,
        path.read_text(encoding="utf-8"),
        known=KNOWN,
        plug_ins=PLUG_INS,
        is_package=path.name == "__init__.py",
    )
    assert not found, "\n".join(found)


def test_every_core_module_has_a_layer() -> None:
    homeless = {name for module in KNOWN if belongs_to(module, CORE) and layer(name := unit(module)) is None}
    assert not homeless, f"give these a place in LAYERS: {', '.join(sorted(homeless))}"


def test_no_name_stands_in_two_layers() -> None:
    names = [name for group in LAYERS for name in group]
    assert len(names) == len(set(names))


def test_no_two_files_import_each_other() -> None:
    assert circles(arrows()) == []


def test_a_circle_is_caught() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


BROKEN: Final = (
    (f"{CORE}.url", f"from {CORE}.manager import ConnectorManager", "from above"),
    (f"{CORE}.url", f"from {CORE} import manager", "from above"),
    (f"{CORE}.url", f"from {CORE} import ConnectorManager", "from above"),
    (f"{CORE}.url", f"import {CORE}.manager", "from above"),
    (f"{CORE}.url", "from .manager import ConnectorManager", "from above"),
    (f"{CORE}.memory.arena", "from ..manager import ConnectorManager", "from above"),
    (f"{CORE}.url", f"def later():\n    from {CORE}.manager import ConnectorManager", "from above"),
    (f"{CORE}.url", f"try:\n    pass\nexcept Exception:\n    import {CORE}.manager", "from above"),
    (f"{CORE}.url", f"import importlib\nx = importlib.import_module('{CORE}.manager')", "from above"),
    (f"{CORE}.url", f"if TYPE_CHECKING:\n    pass\nelse:\n    import {CORE}.manager", "from above"),
    (
        f"{CORE}.url",
        f"import importlib\nABOVE: Final = '{CORE}.manager'\nx = importlib.import_module(ABOVE)",
        "from above",
    ),
    (f"{CORE}.url", f"ROOT = '{CORE}'\nABOVE = f'{{ROOT}}.manager'\nx = import_module(ABOVE)", "from above"),
    (f"{CORE}.transport.stream", f"from {CORE}.dtypes import DType", "errors, lease, process only"),
    (f"{CORE}.manager.manager", f"from {CORE}.memory.arena import Arena", "its face is"),
    (f"{CORE}.manager.manager", "from ..memory.arena import Arena", "its face is"),
    (f"{CORE}.manager.manager", "from ..memory import arena", "its face is"),
    ("lmcache_connect_redis.adapter", f"from {CORE}.memory.arena import Arena", "its face is"),
    (f"{CORE}.surprise", f"from {CORE}.errors import LMCacheConnectError", "has no place"),
    (f"{CORE}.manager", "import lmcache_connect_redis", "plug-in package"),
    (f"{CORE}.cli.demo", "from lmcache_reference_connectors.memory import X", "plug-in package"),
    (f"{CORE}.url", "if TYPE_CHECKING:\n    import lmcache_connect_redis", "plug-in package"),
    ("lmcache_connect_redis.adapter", f"from {CORE}.url import _parse", "not public"),
    ("lmcache_connect_redis.adapter", f"from {CORE}._version import version", "not public"),
    ("lmcache_connect_redis.adapter", f"from {CORE}.url import *", "name what is used"),
    ("lmcache_connect_redis.adapter", f"import {CORE}.url", "whole"),
    ("lmcache_connect_redis.adapter", "import lmcache_reference_connectors", "stands on"),
    ("lmcache_reference_connectors.redis", "from lmcache_connect_redis.x import Y", "stands on"),
)


@pytest.mark.parametrize(("module", "source", "complaint"), BROKEN)
def test_a_broken_rule_is_caught(module: str, source: str, complaint: str) -> None:
    found = complaints(module, source, known=SAMPLE, plug_ins=SAMPLE_PLUG_INS)
    assert len(found) == 1
    assert complaint in found[0]


SOUND: Final = (
    (f"{CORE}.manager", f"from {CORE}.url import ConnectorURL\nfrom {CORE} import url"),
    (f"{CORE}.manager", "from .url import ConnectorURL\nfrom . import url"),
    (f"{CORE}.keys", f"from {CORE}.dtypes import DType"),
    (f"{CORE}.memory.arena", f"from {CORE}.memory.policy import LRU\nfrom .policy import LRU"),
    (f"{CORE}.manager.manager", "from ..memory import Arena"),
    (f"{CORE}.transport.stream", f"from {CORE}.errors import LMCacheConnectError\nfrom {CORE}.transport import x"),
    (f"{CORE}.transport.stream", f"if TYPE_CHECKING:\n    from {CORE}.dtypes import DType"),
    (f"{CORE}.url", f"if typing.TYPE_CHECKING:\n    from {CORE}.manager import ConnectorManager"),
    (f"{CORE}.manager.builtin", "TABLE = {'redis': 'lmcache_connect_redis.adapter:RedisAdapter'}"),
    (f"{CORE}.manager.compat_bridge", f"ABOVE = '{CORE}.compat'\nx = import_module(ABOVE)"),
    (f"{CORE}.testing.suite", f"from {CORE} import ConnectorManager\nimport {CORE}.manager"),
    ("lmcache_connect_redis.adapter", f"from {CORE} import ConnectorAdapter\nfrom {CORE}.url import X"),
    ("lmcache_connect_redis.adapter", "from lmcache_connect_redis._pool import Pool\nimport redis"),
)


@pytest.mark.parametrize(("module", "source"), SOUND)
def test_a_sound_import_is_left_alone(module: str, source: str) -> None:
    assert complaints(module, source, known=SAMPLE, plug_ins=SAMPLE_PLUG_INS) == []
