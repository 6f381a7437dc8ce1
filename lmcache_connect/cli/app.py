"""The command with all its commands. It only assembles them.

To add a command `toy`, make a package `cli/toy/` with these files:

* modules with the work: plain async functions that return a frozen dataclass, the report. They import neither typer nor
  rich, and print nothing.
* `document.py`: the report as the JSON document of `--json`. `table.py`: the report for people, by `frame/table.py`.
* `command.py`: the function `toy`, with the options, among them `as_json: AsJSON = False`. Its docstring is the help.
  It asks `frame/store_argument.py` which store, calls the work, and prints by `frame/output.py`; a long one shows
  `frame/progress.py`. Where the store or its data is not as it should be, it raises `typer.Exit(EXIT_NOT_VERIFIED)`.
  `COMMAND = Command(toy, ("redis://cache:6379", ...))` declares it with examples. `Command` adds `--config`, and turns
  an `LMCacheConnectError` or `OSError` into a line on stderr, a document with `--json`, and the exit code 2.

Then add it to `COMMANDS`, and its name to `tests/cli/test_help.py`, which checks the help texts.
"""

from __future__ import annotations

import shutil
from typing import Annotated, Final

import typer

from .._version import __version__
from .bench.command import COMMAND as BENCH
from .check.command import COMMAND as CHECK
from .copy.command import COMMANDS as COPY
from .demo.command import COMMAND as DEMO
from .engines.command import COMMAND as ENGINES
from .frame.command import Command
from .frame.exits import EXIT_USAGE, PROGRAM
from .frame.settings_file import SettingsFile, use_settings_file
from .ping.command import COMMAND as PING
from .schemes.command import COMMANDS as SCHEMES
from .serve.command import COMMAND as SERVE
from .settings.command import COMMANDS as SETTINGS
from .soak.command import COMMAND as SOAK
from .store.command import COMMANDS as STORE

COMMANDS: Final[tuple[Command, ...]] = (
    DEMO,
    PING,
    CHECK,
    BENCH,
    SOAK,
    *STORE,
    *COPY,
    *SCHEMES,
    ENGINES,
    SERVE,
    *SETTINGS,
)
"""In the order in which the help lists them."""

GROUPS: Final = {"config": "Show the settings in effect, or write a settings file."}
"""Words that several commands begin with, and their help."""


_WIDTH: Final = min(shutil.get_terminal_size().columns, 100) - 1
"""Of help texts. Without it, they are never narrower than 50 columns."""


def _made(text: str) -> typer.Typer:
    return typer.Typer(
        help=text,
        context_settings={"help_option_names": ["-h", "--help"], "terminal_width": _WIDTH},
        pretty_exceptions_enable=False,  # its tracebacks show local variables, and one may be a password
        rich_markup_mode=None,
    )


app: Final = _made("KV caches of LLMs between Python and remote stores.")


@app.callback(invoke_without_command=True)
def lmcache_connect(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    config: SettingsFile = None,
) -> None:
    """KV caches of LLMs between Python and remote stores."""
    use_settings_file(config)
    if version:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(EXIT_USAGE)


_groups: Final = {name: _made(text) for name, text in GROUPS.items()}

for each in COMMANDS:
    each.add_to(_groups[each.group] if each.group else app)
for name, group in _groups.items():
    app.add_typer(group, name=name)
