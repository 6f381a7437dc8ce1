"""SGLang as it is installed, without what it depends on: its storage interface, and methods of its host pools.

The packages above the storage interface import most of a serving stack, so bare packages stand in for them. Of the host
pools and of the cache controller, which import the same, single methods are read from their files.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from .restated import BACKEND, replaced_modules

_BARE = ("sglang", "sglang.srt", "sglang.srt.mem_cache")


@cache
def folder() -> Path | None:
    """Where the package `sglang` is. None: it is not installed."""
    spec = importlib.util.find_spec("sglang")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


@contextmanager
def installed_sglang() -> Iterator[Any]:
    """Gives SGLang's module of the storage interface, which `HiCacheBackend` is then made against."""
    root = folder()
    assert root is not None
    with replaced_modules("sglang", BACKEND):
        for name in _BARE:
            package = sys.modules[name] = ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        yield importlib.import_module("sglang.srt.mem_cache.hicache_storage")


def methods(file: str, class_name: str, *names: str, **known: Any) -> dict[str, Any]:
    """Methods of a class in one of SGLang's files. `known` are the names that they need."""
    root = folder()
    assert root is not None
    path = root / file
    tree = ast.parse(path.read_text(encoding="utf-8"))
    [owner] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name]
    found = {node.name: node for node in owner.body if isinstance(node, ast.FunctionDef)}
    future = ast.ImportFrom("__future__", [ast.alias("annotations")], 0)
    module = ast.Module([future, *(found[name] for name in names)], [])
    scope: dict[str, Any] = {**vars(typing), **known}
    exec(compile(ast.fix_missing_locations(module), str(path), "exec"), scope)
    return {name: scope[name] for name in names}
