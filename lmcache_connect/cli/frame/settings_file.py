"""`--config FILE`: the settings file that one run of the command uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ...config import FILE_VARIABLE

SettingsFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help=f"A settings file, in TOML. The variable is {FILE_VARIABLE}."),
]


def use_settings_file(path: Path | None) -> None:
    """Has all settings of this process read from the file as well. None changes nothing.

    The variable carries the name, so that everything which loads settings finds it. `main` restores the variable.
    """
    if path is not None:
        os.environ[FILE_VARIABLE] = str(path)
