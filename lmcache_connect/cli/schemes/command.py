"""`lmcache-connect schemes` and `lmcache-connect plugins`."""

from __future__ import annotations

from typing import Final

from ...config import ConnectorConfig
from ..frame.command import AsJSON, Command
from ..frame.output import console, print_json
from .document import plugins_document, schemes_document
from .plugins import list_plugins
from .schemes import list_schemes
from .table import print_plugins, print_schemes


def schemes(as_json: AsJSON = False) -> None:
    """List the known URL schemes, their adapters, and whether the adapters load."""
    found = list_schemes()
    if as_json:
        print_json(schemes_document(found))
    else:
        print_schemes(found, console())


def plugins(as_json: AsJSON = False) -> None:
    """List the plug-ins from the environment's configuration and the installed ones, and whether they load."""
    found = list_plugins(ConnectorConfig.load())
    if as_json:
        print_json(plugins_document(found))
    else:
        print_plugins(found, console())


COMMANDS: Final = (Command(schemes, ("", "--json")), Command(plugins, ("", "--config settings.toml", "--json")))
