"""What is remembered of objects that were found, without a server."""

from __future__ import annotations

import time

from lmcache_connect_s3.found_names import FoundNames


def test_a_name_is_remembered_for_a_while_unless_it_is_removed() -> None:
    names = FoundNames(0.05)
    names.add("k")
    names.add("other")
    names.discard("other")
    assert "k" in names
    assert "other" not in names
    assert "never seen" not in names
    time.sleep(0.06)
    assert "k" not in names


def test_nothing_is_remembered_for_no_time() -> None:
    names = FoundNames(0)
    names.add("k")
    assert "k" not in names


def test_so_many_names_take_a_bounded_amount_of_memory() -> None:
    names = FoundNames(60)
    for number in range(65_536 + 10):
        names.add(str(number))
    assert sum(str(number) in names for number in range(65_536 + 10)) == 10
