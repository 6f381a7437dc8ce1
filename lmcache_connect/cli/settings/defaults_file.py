"""A settings file with every setting, its default and what it does, for a person to change."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final

from ...config import ConnectorConfig, Settings
from ...errors import MissingExtraError
from ..frame.fields import fields_of

_COLUMNS: Final = 100

_HEAD: Final = """\
# Settings of lmcache-connect, with their defaults. Remove the '#' in front of what you change.
#
# The file is read where it is named: by --config FILE, by the variable LMCACHE_CONNECT_CONFIG, or by
# ConnectorConfig.from_file(FILE). Durations are seconds, or 250ms, 10s, 5m, 2h; sizes are bytes, or 64MiB, 1GiB.
# A file with a password is for its owner alone: chmod 600.
"""

_PLUGINS: Final = """\
# A plug-in, type or "type.instance", in a table of its own. Whatever else stands in the table is its own setting.
# [plugins.mine]
# module_path = "my_package.my_connector"
# class_name = "MyConnector"
"""

_EXAMPLES: Final = {
    "url": '"redis://127.0.0.1:6379"',
    "unix_socket": '"/run/lmcache-connect/api.sock"',
    "token": '"at-least-16-characters"',
    "metrics_token": '"at-least-16-characters"',
    "token_file": '"/run/secrets/lmcache-connect-token"',
    "protect": '"all"',
    "metrics_port": "9090",
    "announce_interval": '"10s"',
    "allowed_modules": '["my_package.my_connector"]',
}
"""What stands where there is no default."""


_ANY: Final = '""'
_PLAIN: Final = frozenset({"true or false", "number", "list", "table"})
"""Kinds of values without quotes in TOML."""


def defaults_file() -> str:
    """The text of the file. As it is, it changes nothing: each setting is behind a `#`."""
    parts = [_HEAD, *_settings(ConnectorConfig)]
    try:
        from ...internal_api_server import APIServerConfig
    except MissingExtraError:
        pass
    else:
        parts += ["# The internal API: lmcache-connect serve.\n[api]\n", *_settings(APIServerConfig)]
    return "\n".join([*parts, _PLUGINS])


def _settings(model: type[Settings]) -> Iterator[str]:
    for field in fields_of(model):
        text = "\n".join(textwrap.wrap(field.text, _COLUMNS, initial_indent="# ", subsequent_indent="# "))
        if field.default is None:
            value = f"{_EXAMPLES.get(field.name, _ANY)}   # an example; there is none by default"
        else:
            value = field.default if field.kind in _PLAIN else f'"{field.default}"'
        yield f"{text}\n# {field.name} = {value}\n"
