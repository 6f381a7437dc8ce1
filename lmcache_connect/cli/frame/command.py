"""`Command`: a function that parses arguments and prints, with its examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand

from ...errors import LMCacheConnectError
from .exits import EXIT_PIPE, PROGRAM
from .output import fail
from .pipe import drop_stdout
from .settings_file import SettingsFile, use_settings_file

AsJSON: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]
"""The parameter `as_json` of every command."""


@dataclass(frozen=True)
class Command:
    """One command. Its parameters are those of `run`, and `--config`.

    `examples` are its arguments, each on a line, without the program's and its own name; they stand under its help.
    `name` is that of `run` unless it is given. `group` is the word before it, as in `config show`. An
    `LMCacheConnectError` or `OSError` that leaves `run` is printed, as a document where the parameter `as_json` is
    true, and the exit code is 2.
    """

    run: Callable[..., None]
    examples: tuple[str, ...]
    name: str = ""
    group: str = ""

    def add_to(self, app: typer.Typer) -> None:
        """Adds the command to `app`: the program, or the app of its group."""
        name = self.name or self.run.__name__.replace("_", "-")
        called = " ".join(filter(None, (PROGRAM, self.group, name)))
        lines = [f"  {called} {example}".rstrip() for example in self.examples]
        # \b: the lines stay as they are.
        app.command(name, cls=_WithHelp, epilog="\n".join(("\b", "Examples:", *lines)))(self._guarded())

    def _guarded(self) -> Callable[..., None]:
        run = self.run

        def guarded(*, config: Path | None, **given: Any) -> None:
            use_settings_file(config)
            try:
                run(**given)
            except BrokenPipeError:  # typer would exit with 1
                drop_stdout()
                raise typer.Exit(EXIT_PIPE) from None
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


class _WithHelp(TyperCommand):
    """Its help gives names at most a third of the columns, so that a narrow terminal has room for sentences."""

    def get_help(self, ctx: Any) -> str:
        formatter = ctx.make_formatter()
        write = formatter.write_dl

        def write_narrow(rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
            write(rows, col_max=min(col_max, max(12, formatter.width // 3)), col_spacing=col_spacing)

        formatter.write_dl = write_narrow
        self.format_help(ctx, formatter)
        text: str = formatter.getvalue()
        return text.rstrip("\n")
