"""`lmcache-connect schemes` and `lmcache-connect plugins`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ...config import ConnectorConfig
from ..frame.command import AsJSON, Command
from ..frame.completion import complete_scheme
from ..frame.output import console, print_json
from .document import options_document, plugins_document, schemes_document
from .plugins import list_plugins
from .scheme_options import describe_options
from .schemes import list_schemes
from .table import print_options, print_plugins, print_schemes


def schemes(
    scheme: Annotated[
        str | None,
        typer.Argument(
            metavar="SCHEME",
            help="Show the options of this scheme, such as redis or hot+s3.",
            show_default=False,
            autocompletion=complete_scheme,
        ),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """List the known URL schemes, their adapters, and whether the adapters load. Of one scheme, list its options.

    Exits with 0 if the scheme is known and its adapter loads, 2 if not.
    """
    if scheme is not None:
        described = describe_options(scheme)
        if as_json:
            print_json(options_document(described))
        else:
            print_options(described, console())
        return
    found = list_schemes()
    if as_json:
        print_json(schemes_document(found))
    else:
        print_schemes(found, console())


def plugins(as_json: AsJSON = False) -> None:
    """List the plug-ins that the settings name and the installed ones, and whether they load."""
    found = list_plugins(ConnectorConfig.load())
    if as_json:
        print_json(plugins_document(found))
    else:
        print_plugins(found, console())


COMMANDS: Final = (
    Command(schemes, ("", "redis", "hot+redis", "--json s3")),
    Command(plugins, ("", "--config settings.toml", "--json")),
)
