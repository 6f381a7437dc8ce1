"""`PrefixHits`: how much of a sequence of pages can be restored, given which pages of which pools the store has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

ALL_PAGES: Final = "all_pages"
TRAILING_PAGES: Final = "trailing_pages"


def leading(flags: Sequence[bool]) -> int:
    """How many flags are True before the first that is not."""
    return sum(1 for _ in takewhile(bool, flags))


@dataclass(frozen=True, slots=True)
class Presence:
    """Which pages of one pool beside KV the store has.

    Attributes:
        policy: which of them a prefix needs: SGLang's name of the policy. One that is not known here never shortens a
            prefix, and the pool gets no verdict.
        trailing: with `TRAILING_PAGES`, how many of the last pages of a prefix it needs.
        flags: for each page whether the store has it.
    """

    policy: str
    trailing: int
    flags: Sequence[bool]

    def restorable(self, pages: int) -> list[int] | None:
        """The lengths of prefixes, up to `pages`, that this pool can serve, in order. None: it does not limit them."""
        if self.policy == ALL_PAGES:
            return list(range(1, leading(self.flags[:pages]) + 1))
        if self.policy == TRAILING_PAGES:
            window = max(1, self.trailing)
            gaps = [-1, *(at for at in range(pages) if not self.flags[at])]
            last, found = 0, []
            for length in range(1, pages + 1):
                while last + 1 < len(gaps) and gaps[last + 1] < length:
                    last += 1
                if gaps[last] < max(0, length - window):
                    found.append(length)
            return found
        return None


@dataclass(frozen=True, slots=True)
class PrefixHits:
    """What of a sequence can be restored.

    Attributes:
        pages: the longest prefix that every pool can serve.
        by_pool: for each pool that has some, the longest prefix that it can serve by itself.
        restorable: the lengths of all prefixes that every pool can serve, in order.
    """

    pages: int
    by_pool: dict[int, int]
    restorable: list[int]

    @classmethod
    def of(cls, kv_pages: int, pools: Sequence[Presence]) -> PrefixHits:
        """`kv_pages` leading pages of KV are there. `by_pool` has the positions in `pools` as its keys."""
        restorable = list(range(1, kv_pages + 1))
        by_pool: dict[int, int] = {}
        for at, pool in enumerate(pools):
            served = pool.restorable(kv_pages)
            if served is None:
                continue
            if served:
                by_pool[at] = served[-1]
            both = set(served)
            restorable = [length for length in restorable if length in both]
        return cls(restorable[-1] if restorable else 0, by_pool, restorable)
