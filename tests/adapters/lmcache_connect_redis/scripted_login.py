"""`ScriptedLogin`: a callable for credentials that answers what a test says."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any


class ScriptedLogin:
    """Answers one item after the other, and then the last one again. An error is raised, and a callable is called."""

    def __init__(self, *answers: Any) -> None:
        self.answers = [*answers]
        self.times: list[float] = []

    @property
    def calls(self) -> int:
        """How often it was called."""
        return len(self.times)

    def pauses_are_at_least(self, *seconds: float) -> bool:
        """Whether so much lay between the last calls."""
        pauses = [later - before for before, later in pairwise(self.times)][-len(seconds) :]
        return all(pause >= least for pause, least in zip(pauses, seconds, strict=True))

    def __call__(self) -> Any:
        self.times.append(time.monotonic())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer
