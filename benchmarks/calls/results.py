"""`Result`: the figures of all rounds of one case, and what they say about its bar."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from .case import AGAINST_BATCH, Case

OURS: Final = "ours"
BASE: Final = "base"
NAMED: Final = ("valkey-glide", "coredis", "redis-py, pool of 50", "redis-py")
"""The clients that the bars name. Others are told."""
LESS_IS_BETTER: Final = ("us", "s/GB")

Figures = dict[str, list[float]]


@dataclass
class Result:
    """One case. `figures` has the values of each round, by side and by figure's name."""

    case: Case
    figures: dict[str, Figures] = field(default_factory=dict)

    def note(self, side: str, figures: dict[str, float]) -> None:
        """Keeps the figures of one side's round. Rounds come in the same order for every side."""
        kept = self.figures.setdefault(side, {})
        for name, value in figures.items():
            kept.setdefault(name, []).append(value)

    def rival(self, name: str = "us") -> str | None:
        """The fastest of the named clients, by its median; of the part `busy`, the base checkout. None without any."""
        if self.case.part == "busy":
            return BASE if BASE in self.figures else None
        rivals = [side for side in NAMED if side in self.figures]
        return min(rivals, key=lambda side: statistics.median(self.figures[side][name]), default=None)

    def ratios(self, side: str = OURS, name: str = "us") -> list[float]:
        """What the bar is about, in every round: a rate against that of one batch, or the time against the rival's.

        Empty without a rival. With `name`, another figure against that of its own rival.
        """
        mine = self.figures.get(side)
        if mine is None:
            return []
        if self.case.part in AGAINST_BATCH:
            return mine["ratio"]
        rival = self.rival(name)
        if rival is None or name not in mine:
            return []
        return [mine / theirs for mine, theirs in zip(mine[name], self.figures[rival][name], strict=True)]

    def ratio_of_best(self, side: str = OURS) -> float | None:
        """The same of each one's best round, which a busy machine disturbs least."""
        mine = self.figures.get(side)
        if mine is None:
            return None
        if (way := AGAINST_BATCH.get(self.case.part)) is not None:
            return max(mine[f"{way} GB/s"]) / max(mine["batch GB/s"])
        rival = self.rival()
        return None if rival is None else min(mine["us"]) / min(self.figures[rival]["us"])

    def reached(self, side: str = OURS) -> bool | None:
        """Whether the median ratio reaches the bar; None without a ratio."""
        ratios = self.ratios(side)
        if not ratios:
            return None
        ratio = statistics.median(ratios)
        return ratio >= self.case.bar if self.case.part in AGAINST_BATCH else ratio <= self.case.bar

    def document(self) -> dict[str, Any]:
        """For JSON: medians, and the lowest and highest value of a round."""
        cpu = (
            {}
            if self.case.part in {*AGAINST_BATCH, "busy"}
            else {side: self.ratios(side, "cpu us") for side in (OURS, BASE)}
        )
        return {
            **asdict(self.case),
            "title": self.case.title,
            "rival": self.rival() if self.case.part not in AGAINST_BATCH else "batch",
            "sides": {
                side: {name: summary(values) for name, values in figures.items()}
                for side, figures in self.figures.items()
            },
            "ratio": {
                side: {**summary(self.ratios(side)), "of_best": self.ratio_of_best(side), "reached": self.reached(side)}
                for side in (OURS, BASE)
                if self.ratios(side)
            },
            "cpu_ratio": {side: summary(values) for side, values in cpu.items() if values},
        }


def summary(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def best(name: str, value: dict[str, float]) -> float:
    """The best round of a figure."""
    return value["low"] if name.endswith(LESS_IS_BETTER) else value["high"]
