"""`SettingsFile`: a TOML file with settings. Nothing is read from a file that nobody named.

At its top stand the settings of `ConnectorConfig`, in the table `[api]` those of the internal API server, and in each
table `[plugins.NAME]` those of a plug-in.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..errors import InvalidConfigError
from ..observability import warn_if_open_to_others
from ..redaction import secrets_of_setting

FILE_VARIABLE: Final = "LMCACHE_CONNECT_CONFIG"
"""The environment variable that names the settings file."""

API: Final = "api"
PLUGINS: Final = "plugins"
TABLES: Final = (API, PLUGINS)
"""The tables that are not settings of `ConnectorConfig`."""

_MAX_BYTES: Final = 1 << 20
_PLUGIN: Final = "remote_storage_plugin"
_HEADER: Final = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?")
_SIGNS: Final = frozenset({"=", "]", "]]", "}", "\\"})
_NAME: Final = re.compile(r"""\s*(?:"([^"]+)"|'([^']+)'|([A-Za-z0-9_-]+))\s*[=.]""")


@dataclass(frozen=True)
class SettingsFile:
    """A file that was read. `path` is as it was named. The contents are in no repr."""

    path: str
    contents: Mapping[str, Any] = field(repr=False)
    lines: Mapping[tuple[str, str], int] = field(repr=False)
    """For the names of each table, the number of the line that gives them. "" is the table at the top."""

    @classmethod
    def read(cls, path: str | Path) -> SettingsFile:
        """Reads a file. Warns once where it holds a secret, and others than its owner may read or change it.

        Raises:
            InvalidConfigError: it is not a regular file, cannot be read, is longer than 1 MiB, or is not TOML. No value
                is shown.
        """
        try:
            # A pipe that nobody writes to must not stop the program.
            with open(Path(path).expanduser(), "rb", opener=_open_at_once) as opened:
                if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                    # It is read more than once in the life of a program, and a pipe is empty the second time.
                    raise InvalidConfigError(FILE_VARIABLE, f"{path} is a pipe or a device; expected a regular file")
                data = opened.read(_MAX_BYTES + 1)
                if len(data) > _MAX_BYTES:
                    raise InvalidConfigError(FILE_VARIABLE, f"{path} has more than {_MAX_BYTES} bytes")
                text = data.decode("utf-8")
                contents = tomllib.loads(text)
                if any(secrets_of_setting("", contents)):
                    warn_if_open_to_others(str(path), opened.fileno())
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InvalidConfigError(FILE_VARIABLE, f"the settings file {path} cannot be read: {reason}") from None
        except UnicodeDecodeError as error:
            raise InvalidConfigError(
                FILE_VARIABLE, f"the settings file {path} is not TOML: byte {error.start} is not UTF-8"
            ) from None
        except tomllib.TOMLDecodeError as error:
            raise InvalidConfigError(
                FILE_VARIABLE, f"the settings file {path} is not TOML: {_complaint(error)}"
            ) from None
        except RecursionError:
            raise InvalidConfigError(
                FILE_VARIABLE, f"the settings file {path} cannot be read: its tables or arrays are nested too deeply"
            ) from None
        except InvalidConfigError:
            raise
        except ValueError:
            raise InvalidConfigError(
                FILE_VARIABLE, f"the settings file {path} cannot be read: a number in it has too many digits"
            ) from None
        return cls(str(path), contents, dict(_lines(text)))

    @classmethod
    def named(cls, path: str | Path | None = None) -> SettingsFile | None:
        """Reads the file at `path` or, with None, the one that `LMCACHE_CONNECT_CONFIG` names. None: no file is named.

        Raises:
            InvalidConfigError: the file cannot be used; see `read`.
        """
        chosen = path if path is not None else os.environ.get(FILE_VARIABLE)
        return cls.read(chosen) if chosen else None

    def table(self, name: str) -> dict[str, Any]:
        """The settings of a table; those at the top for "".

        At the top, the tables of plug-ins are entries of `extra_config`, and their names are `remote_storage_plugins`,
        unless the file has that setting.

        Raises:
            InvalidConfigError: the name is not that of a table in this file, or a plug-in is not a table.
        """
        if name:
            found = self.contents.get(name, {})
            if not isinstance(found, dict):
                raise InvalidConfigError(name, f"expected a table, [{name}], in {self.place(name)}")
            return dict(found)
        top = {setting: value for setting, value in self.contents.items() if setting not in TABLES}
        plugins = self.table(PLUGINS)
        if not plugins:
            return top
        entries: dict[str, Any] = {}
        for plugin, settings in plugins.items():
            if not isinstance(settings, dict):
                raise InvalidConfigError(
                    f"{PLUGINS}.{plugin}",
                    f"expected a table of the plug-in's settings, [{PLUGINS}.{plugin}], in {self.path}; a dot in a "
                    f'plug-in\'s name needs quotes, [{PLUGINS}."type.instance"]',
                )
            entries |= {f"{_PLUGIN}.{plugin}.{setting}": value for setting, value in settings.items()}
        extra = top.get("extra_config", {})
        if isinstance(extra, dict):  # whatever else it is, the settings refuse it
            top["extra_config"] = {**entries, **extra}
        top.setdefault("remote_storage_plugins", list(plugins))
        return top

    def place(self, name: str, table: str = "") -> str:
        """Where the file gives a setting: `settings.toml:7`; the path alone where the line is not known."""
        line = self.lines.get((table, name))
        return self.path if line is None else f"{self.path}:{line}"


def _lines(text: str) -> Iterator[tuple[tuple[str, str], int]]:
    """Yields the lines with names, roughly: inside a text of several lines, a line may look like one."""
    table = ""
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.fullmatch(line)
        found = _NAME.match(line) if header is None else None
        if header is not None:
            table = header[1].strip("\"'")
            top, _, _ = table.partition(".")
            key = ("", top)
        elif found is not None:
            key = (table, found[1] or found[2] or found[3])
        else:
            continue
        if key not in seen:
            seen.add(key)
            yield key, number


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _complaint(error: tomllib.TOMLDecodeError) -> str:
    """What is wrong, and where. Of what tomllib quotes, its own signs are shown, and nothing from the file."""
    return re.sub(r"""'([^']*)'|"([^"]*)\"""", lambda found: found[0] if found[1] in _SIGNS else "...", str(error))
