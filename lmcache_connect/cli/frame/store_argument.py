"""Which store a command is for: its first argument, `--url`, the environment, or the settings file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

import typer

from ...config import ConnectorConfig
from .completion import complete_url

URL_SHAPE: Final = "redis://[user[:password]@]host[:port][/db][?option=value]"

_EXAMPLE: Final = "redis://127.0.0.1:6379"
_HELP: Final = f"The store, such as {URL_SHAPE}."
_ELSEWHERE: Final = "Without it: --url, the variable LMCACHE_CONNECT_URL, or url in the settings file."

StoreArgument: TypeAlias = Annotated[
    str | None,
    typer.Argument(metavar="URL", help=f"{_HELP} {_ELSEWHERE}", show_default=False, autocompletion=complete_url),
]
"""The only argument of a command, for `store_url`."""

StoreArguments: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="URL ARGUMENT", help=f"{_HELP} {_ELSEWHERE}", show_default=False, autocompletion=complete_url
    ),
]
"""All arguments of a command that takes more than the URL, for `store_and_rest`. A command may declare its own."""

StoreOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="The store, where it is not the first argument.", autocompletion=complete_url
    ),
]


@dataclass(frozen=True)
class StoreAndRest:
    """The store's URL, and the arguments that followed it."""

    url: str
    rest: tuple[str, ...]


def store_and_rest(arguments: Sequence[str] | None, option: str | None) -> StoreAndRest:
    """The store of a command, and its other arguments. A first argument with `://` is the store's URL.

    Raises:
        BadParameter: no store is named, or it is named as an argument and by `--url`.
        InvalidConfigError: a setting is wrong.
    """
    rest = tuple(arguments or ())
    first = None
    if rest and "://" in rest[0]:
        first, rest = rest[0], rest[1:]
    return StoreAndRest(_one(first, option), rest)


def store_url(argument: str | None, option: str | None) -> str:
    """The store of a command that has no other arguments.

    Raises:
        BadParameter: no store is named, it is named twice, or the argument is not a URL.
        InvalidConfigError: a setting is wrong.
    """
    return _one(_checked(argument), option)


def given_url(argument: str | None, option: str | None) -> str | None:
    """The store that the command line names, for a command that works without one. None: it names none.

    Raises:
        BadParameter: it is named twice, or the argument is not a URL.
    """
    argument = _checked(argument)
    if argument is not None and option is not None:
        raise typer.BadParameter("the store is given as an argument as well; give it once", param_hint="'--url'")
    return option if argument is None else argument


def store_if_named(argument: str | None, option: str | None) -> str | None:
    """The store that the command line names, or else the settings. None: neither, or the settings name several.

    Raises:
        BadParameter: it is named twice, or the argument is not a URL.
        InvalidConfigError: a setting is wrong.
    """
    given = given_url(argument, option)
    configured = ConnectorConfig.load().url
    if given is not None or configured is None:
        return given
    urls = configured.get_secret_value().split()
    return urls[0] if len(urls) == 1 else None


def store_urls(arguments: Sequence[str] | None, options: Sequence[str] | None) -> list[str]:
    """The stores of a command that takes several. `LMCACHE_CONNECT_URL` and the settings file may name several, too,
    with spaces between them.

    Raises:
        BadParameter: no store is named, stores are named as arguments and by `--url`, or an argument is not a URL.
        InvalidConfigError: a setting is wrong.
    """
    if arguments and options:
        raise typer.BadParameter("stores are given as arguments as well; give them one way", param_hint="'--url'")
    given = [_checked(one) or "" for one in arguments] if arguments else list(options or ())
    return given or _one(None, None).split()


def _one(argument: str | None, option: str | None) -> str:
    given = given_url(argument, option)
    if given is not None:
        return given
    configured = ConnectorConfig.load().url
    if configured is None:
        raise typer.BadParameter(
            "no store is named: as the first argument, by --url, in the variable LMCACHE_CONNECT_URL, or as url in the "
            f"settings file (--config or LMCACHE_CONNECT_CONFIG); expected a URL such as {_EXAMPLE}",
            param_hint="'URL'",
        )
    return configured.get_secret_value()


def _checked(argument: str | None) -> str | None:
    if argument is not None and "://" not in argument:
        # Not shown: it may be a URL with a password, whose scheme was forgotten.
        raise typer.BadParameter(f"the scheme is missing; expected a URL such as {_EXAMPLE}", param_hint="'URL'")
    return argument
