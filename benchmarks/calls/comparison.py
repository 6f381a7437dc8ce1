"""`Comparison`: every side of every case, interleaved round by round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .case import Case
from .clients import ASYNC, BLOCKING, OURS, RedisPy
from .results import BASE, Result
from .side import ROOT, Side

Address = Callable[[int], str]
"""A store's URL, by the number of the side: no side replaces the values of another."""


def sides_of(case: Case, only: Sequence[str] | None, base: bool) -> list[str]:
    """The sides of a case: ours, the base checkout, and the clients whose name contains one of `only`."""
    lone = RedisPy.name
    clients = {
        "together": [name for name in ASYNC if name != lone],
        "one": [lone],
        "threads": list(BLOCKING),
    }.get(case.part, [])
    others = [name for name in clients if name != OURS and (only is None or any(part in name for part in only))]
    has_base = base and case.part != "memory"  # an older one may have no calls with memory of the caller
    return [OURS, *([BASE] if has_base else []), *others]


class Comparison:
    """Measures cases. A side's process starts when it is first wanted, and `close` ends all of them."""

    def __init__(
        self,
        *,
        log: Callable[[str], None],
        only: Sequence[str] | None = None,
        base: Path | None = None,
        uvloop: bool = False,
    ) -> None:
        self.left_out: dict[str, str] = {}
        """The reason for each client that did not take part, by name."""
        self._log = log
        self._only = only
        self._base = base
        self._uvloop = uvloop
        self._sides: dict[str, Side] = {}

    def run(self, case: Case, address: Address, rounds: int) -> Result:
        """Rounds of one case, after one that does not count. Another side begins in each round."""
        result = Result(case)
        opened: list[Side] = []
        wanted = sides_of(case, self._only, self._base is not None)
        for number, name in enumerate(wanted):
            if name in self.left_out:
                continue
            side = self._side(name)
            missing = side.open(case, address(number))
            if missing is None:
                opened.append(side)
            else:
                self.left_out[name] = missing
                self._log(f"left out: {name}: {missing}")
        result.figures = {side.name: {} for side in opened}
        for number in range(rounds + 1):
            first = number % len(opened)
            for side in opened[first:] + opened[:first]:
                figures = side.round(number)
                if number:
                    result.note(side.name, figures)
        for side in opened:
            side.close()
        return result

    def close(self) -> None:
        """Ends the processes."""
        sides, self._sides = self._sides, {}
        for side in sides.values():
            side.end()

    def _side(self, name: str) -> Side:
        side = self._sides.get(name)
        if side is None:
            checkout = self._base if name == BASE and self._base is not None else ROOT
            client = OURS if name == BASE else name
            side = self._sides[name] = Side(name, client, checkout, uvloop=self._uvloop)
        return side


def in_order(names: Mapping[str, object] | set[str]) -> list[str]:
    """Sides in the order of the tables."""
    order = [OURS, BASE, *(name for name in ASYNC if name != OURS)]
    return [name for name in order if name in names]
