"""`Side`: one of the compared clients, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from .case import Case

ROOT: Final = Path(__file__).resolve().parents[2]


class SideEndedError(Exception):
    """The process ended before it answered. What it wrote to standard error says why."""


class Side:
    """A process that measures `client`, with the toolkit of the checkout at `checkout`.

    A process for each, so that no client shares an interpreter, a heap or threads with another, and so that two
    checkouts of the toolkit can take part.
    """

    def __init__(self, name: str, client: str, checkout: Path = ROOT, *, uvloop: bool = False) -> None:
        self.name = name
        # The benchmark itself is that of this checkout, whichever toolkit it measures. Its folder comes last, because
        # it has folders with the names of the packages that they measure.
        folders = (checkout, checkout / "adapters", checkout / "reference_connectors", ROOT / "benchmarks")
        here = os.environ.get("PYTHONPATH", "")
        path = os.pathsep.join((*map(str, folders), *filter(None, [here])))
        command = [sys.executable, "-P", "-m", f"{Path(__file__).parent.name}.serve", client]
        self._process = subprocess.Popen(
            command + ["--uvloop"] * uvloop,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def open(self, case: Case, url: str) -> str | None:
        """Gets ready for a case. Returns why it cannot take part, or None."""
        missing: str | None = self._ask({"open": asdict(case), "url": url}).get("missing")
        return missing

    def round(self, number: int) -> dict[str, float]:
        """The figures of one round."""
        figures: dict[str, float] = self._ask({"round": number})["figures"]
        return figures

    def close(self) -> None:
        """Ends the case."""
        self._ask({"close": True})

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SideEndedError(f"{self.name}: its process ended at {order}")
        answer: dict[str, Any] = json.loads(line)
        return answer
