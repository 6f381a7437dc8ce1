"""`drop_stdout`: for a command whose output nobody reads any more, such as behind `head`."""

from __future__ import annotations

import os
import sys


def drop_stdout() -> None:
    """Sends further output nowhere. Otherwise Python would fail to flush it when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
