"""All faults, in the order of the page."""

from __future__ import annotations

from typing import Final

from .faults import answers, logins, process, servers, wire
from .faults.fault import Fault

FAULTS: Final[tuple[Fault, ...]] = (
    *wire.FAULTS,
    *answers.FAULTS,
    *servers.FAULTS,
    *logins.FAULTS,
    *process.FAULTS,
)
