"""What a scan remembers of the names that it has given."""

from __future__ import annotations

import tracemalloc

from lmcache_connect.managed.seen_names import SeenNames

MANY = 200_000


def test_a_name_is_new_once() -> None:
    seen = SeenNames()
    names = [f"model@1@0@{number:x}@uint8" for number in range(20_000)]
    assert all(map(seen.add, names))
    assert not any(map(seen.add, names))


def test_a_hash_of_zero_is_remembered_too() -> None:
    class Name(str):
        def __hash__(self) -> int:
            return 0

    seen = SeenNames()
    assert seen.add(Name("a"))
    assert not seen.add(Name("a"))


def test_a_name_takes_less_than_thirty_bytes() -> None:
    names = [f"model@1@0@{number:x}@uint8" for number in range(MANY)]
    seen = SeenNames()
    tracemalloc.start()
    try:
        for name in names:
            seen.add(name)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 30 * MANY
