"""The exit codes of the command, and its name."""

from __future__ import annotations

from typing import Final

PROGRAM: Final = "lmcache-connect"

EXIT_NOT_VERIFIED: Final = 1
"""The command ran, and the store or its data is not as it should be: a wrong answer, a failed check, a difference."""

EXIT_USAGE: Final = 2
"""The usage, a setting or the URL is wrong, the store cannot be used, or a package is missing."""

EXIT_INTERRUPTED: Final = 130
"""SIGINT, such as Ctrl-C, ended the command."""

EXIT_PIPE: Final = 141
"""Who read the command's output closed it, such as `head`."""

EXIT_TERMINATED: Final = 143
"""SIGTERM ended the command."""
