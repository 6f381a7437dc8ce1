"""`Command`: a function that parses arguments and prints, with its examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from ...errors import LMCacheConnectError
from .exits import PROGRAM
from .output import fail
from .settings_file import SettingsFile, use_settings_file

AsJSON: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]
"""The parameter `as_json` of every command."""


@dataclass(frozen=True)
class Command:
    """One command. Its parameters are those of `run`, and `--config`.

    `examples` are its arguments, each on a line, without the program's and its own name; they stand under its help.
    `name` is that of `run` unless it is given. An `LMCacheConnectError` or `OSError` that leaves `run` is printed, as a
    document where the parameter `as_json` is true, and the exit code is 2.
    """

    run: Callable[..., None]
    examples: tuple[str, ...]
    name: str = ""

    def add_to(self, app: typer.Typer, group: str = "") -> None:
        """Adds the command to `app`, which is called `group` where it is not the program itself."""
        name = self.name or self.run.__name__.replace("_", "-")
        called = " ".join(filter(None, (PROGRAM, group, name)))
        lines = [f"  {called} {example}".rstrip() for example in self.examples]
        # \b: the lines stay as they are.
        app.command(name, epilog="\n".join(("\b", "Examples:", *lines)))(self._guarded())

    def _guarded(self) -> Callable[..., None]:
        run = self.run

        def guarded(*, config: Path | None, **given: Any) -> None:
            use_settings_file(config)
            try:
                run(**given)
            except BrokenPipeError:  # an OSError, which main() handles
                raise
            except (LMCacheConnectError, OSError) as error:
                fail(error, bool(given.get("as_json", False)))

        signature = inspect.signature(run, eval_str=True)
        file = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=SettingsFile)
        parameters = [*signature.parameters.values(), file]
        guarded.__name__, guarded.__doc__ = run.__name__, run.__doc__
        guarded.__signature__ = signature.replace(  # type: ignore[attr-defined]  # typer reads it
            parameters=[each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        )
        guarded.__annotations__ = {each.name: each.annotation for each in parameters}
        return guarded
