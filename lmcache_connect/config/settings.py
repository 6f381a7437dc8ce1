"""`Settings`: the base of all settings, and the order in which their values are looked for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from ..errors import InvalidConfigError
from ..redaction import redact
from .origin import Origin
from .settings_file import FILE_VARIABLE, TABLES, SettingsFile
from .similar import meant, similar_name

_JSON_ERRORS: Final = frozenset({"tuple_type", "dict_type"})
"""What pydantic calls the error of a list or a table that is given as a text."""

_URL_SIGNS: Final = re.compile("[/@]")

_file: ContextVar[SettingsFile | None] = ContextVar("_file", default=None)
"""The file that `load` has read already, so that one load reads it once."""


class Settings(BaseSettings):
    """Frozen settings. Code wins over the environment, which wins over the settings file, which wins over the defaults.

    A subclass adds fields. `file_table` is the table of the settings file with its values; "" is the top of the file.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_parse_none_str="none",
        env_ignore_empty=True,
    )

    file_table: ClassVar[str] = ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources of values; the first that has a value wins. Entries of a table are taken from all."""
        file = _file.get() or SettingsFile.named()
        if file is None:
            return init_settings, env_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, cls._checked(file))

    @classmethod
    def load(cls, **settings: Any) -> Self:
        """The settings that are given, then the environment's, then the settings file's, then the defaults.

        The settings file is the one that the variable `LMCACHE_CONNECT_CONFIG` names; there is none without it.

        Raises:
            InvalidConfigError: a setting does not exist, its value has the wrong type or range, or the file cannot be
                used. No value is shown.
        """
        return cls._loaded(SettingsFile.named(), settings)

    @classmethod
    def from_file(cls, file: str | Path, /, **settings: Any) -> Self:
        """What `load` returns, with `file` as the settings file. It is TOML.

        Raises:
            InvalidConfigError: as from `load`.
        """
        return cls._loaded(SettingsFile.read(file), settings)

    @classmethod
    def _loaded(cls, read: SettingsFile | None, settings: dict[str, Any]) -> Self:
        for name in settings:
            if name not in cls.model_fields:
                known = ", ".join(cls.model_fields)
                raise InvalidConfigError(
                    name, f"no such setting{meant(name, cls.model_fields)}; expected one of {known}"
                )
        token = _file.set(read)
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            name = ".".join(map(str, first["loc"]))
            origin = cls._origin(str(first["loc"][0]) if first["loc"] else "", settings, read)
            is_json = first["type"] in _JSON_ERRORS and origin.kind == "environment"
            hint = '; expected JSON in the environment variable, such as ["a", "b"]' if is_json else ""
            given = f" ({origin.place})" if origin.place else ""
            reason = first["msg"].removeprefix("Value error, ")
            raise InvalidConfigError(name or "settings", f"{reason}{hint}{given}") from None
        except SettingsError as error:
            raise InvalidConfigError("environment", str(error)) from None
        finally:
            _file.reset(token)

    @classmethod
    def origins(cls, *, file: str | Path | None = None, given: Iterable[str] = ()) -> dict[str, Origin]:
        """Where `load` finds the value of each setting, now: in the environment, the settings file, or the defaults.

        `given` are the names that code gives. Of a table that several have entries for, the first one is told.

        Raises:
            InvalidConfigError: the file cannot be used.
        """
        read = SettingsFile.named(file)
        names = frozenset(given)
        return {name: cls._origin(name, names, read) for name in cls.model_fields}

    @classmethod
    def variable(cls, name: str) -> str:
        """The environment variable of a setting."""
        return f"{cls.model_config.get('env_prefix')!s}{name}".upper()

    @classmethod
    def unknown_variables(cls) -> dict[str, str]:
        """Environment variables that begin as those of these settings do, and that no setting is read from.

        Returns the name of each, with the most similar name of a variable that is read; "" where none is similar.
        """
        prefix = str(cls.model_config.get("env_prefix")).upper()
        known = {name.upper() for name in cls.model_fields}
        unknown: dict[str, str] = {}
        for variable in os.environ:
            name = variable.upper().removeprefix(prefix)
            if name != variable.upper() and name not in known and variable.upper() != FILE_VARIABLE:
                similar = similar_name(name, known)
                unknown[variable] = f"{prefix}{similar}" if similar else ""
        return unknown

    @classmethod
    def _checked(cls, file: SettingsFile) -> dict[str, Any]:
        """The file's values for these settings.

        Raises:
            InvalidConfigError: a name is not known.
        """
        table = cls.file_table
        values = file.table(table)
        for name in values:
            if name not in cls.model_fields:
                known = [*cls.model_fields, *(() if table else TABLES)]
                where = f"the table [{table}]" if table else "the file"
                shown = redact(name) if _URL_SIGNS.search(name) else name  # a URL's place may be mistaken
                raise InvalidConfigError(
                    f"{table}.{shown}" if table else shown,
                    f"no such name in {where}, {file.place(name, table)}{meant(name, known)}; "
                    f"expected one of {', '.join(known)}",
                )
        return values

    @classmethod
    def _origin(cls, name: str, given: Iterable[str], file: SettingsFile | None) -> Origin:
        if name in given:
            return Origin("code")
        wanted = cls.variable(name)
        for variable, value in os.environ.items():
            if value and variable.upper() == wanted:
                return Origin("environment", variable)
        if file is not None and name in file.table(cls.file_table):
            return Origin("file", file.place(name, cls.file_table))
        return Origin("default")
