"""The names that guests import: LMCache's own where it is installed, and otherwise those in its place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lmcache_connect import compat
from lmcache_connect.compat.import_names import has_real_lmcache


@pytest.fixture
def lmcache_names() -> Iterator[None]:
    """LMCache's import names, of either kind."""
    if has_real_lmcache():
        pytest.importorskip("torch", reason="LMCache is installed and torch is not")
        yield
    else:
        with compat.installed():
            yield


@pytest.fixture
def names_in_its_place() -> Iterator[None]:
    """The names in LMCache's place. Skips where LMCache itself is installed, which is never shadowed."""
    if has_real_lmcache():
        pytest.skip("LMCache itself is installed: its names are its own")
    with compat.installed():
        yield
