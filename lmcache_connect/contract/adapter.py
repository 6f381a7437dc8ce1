"""`ConnectorAdapter`: how a URL becomes a connector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from ..config import ConnectorConfig, ErrorMode, Seconds
from ..url import RemoteURL, URLOptions
from .connector import RemoteConnector
from .context import ConnectorContext

ANY_SCHEME: Final = "<scheme>"
"""`name+<scheme>` among an adapter's schemes stands for `name+redis`, `name+memory` and every other one."""


def scheme_names(scheme: str) -> tuple[str, ...]:
    """The names under which the adapter of a scheme may be registered: the scheme and, for `name+redis`, its family.

    In the order in which they are looked up.
    """
    name, sign, rest = scheme.partition("+")
    return (scheme, f"{name}+{ANY_SCHEME}") if sign and rest else (scheme,)


class ConnectorOptions(URLOptions):
    """Options that every adapter with typed options takes; they override the manager's configuration."""

    timeout: Seconds | None = None
    """The deadline of one operation in seconds, to which the time for its bytes is added."""

    stall_timeout: Seconds | None = None
    """Seconds without a byte of progress after which a connection is dead, if the store owes progress."""

    errors: ErrorMode | None = None
    """`raise` or `miss`."""

    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    """How often a failed attempt is repeated inside the deadline."""

    def overrides(self) -> dict[str, Any]:
        """The settings of `ConnectorConfig` that the URL overrides, by their names there."""
        given = {
            "operation_timeout": self.timeout,
            "stall_timeout": self.stall_timeout,
            "errors": self.errors,
            "retries": self.retries,
        }
        return {name: value for name, value in given.items() if value is not None}


class ConnectorAdapter(ABC):
    """Makes connectors for the URLs of one or several schemes.

    An adapter is made without arguments, holds no connection, and may serve several managers. `schema` is the prefix
    that LMCache's adapters have ("redis://"). `schemes` names more than one scheme, and `name+<scheme>` a whole family
    of them. `options` is the model of the URL's options. The manager validates every URL against it, once, before it
    makes a connector, and `context.options(model)` returns the result. With None the adapter takes any option, as text.
    """

    schema: str = ""
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[type[ConnectorOptions] | None] = None
    makes_foreign: ClassVar[bool] = False
    """Whether it makes connectors of other people's classes, whose constructors must not run on an event loop."""

    def __init__(self, schema: str = "") -> None:
        if schema:
            self.schema = schema

    def known_schemes(self) -> tuple[str, ...]:
        """Every scheme that this adapter answers for, in lower case, without `://`."""
        own = (self.schema.partition("://")[0].lower(),) if self.schema else ()
        return tuple(dict.fromkeys((*own, *map(str.lower, self.schemes))))

    def can_parse(self, url: str) -> bool:
        """Whether the URL's scheme is one of this adapter's, exactly."""
        scheme, sign, _ = url.partition("://")
        return bool(sign) and not set(scheme_names(scheme.lower())).isdisjoint(self.known_schemes())

    def parse_options(self, url: RemoteURL) -> ConnectorOptions | None:
        """The URL's options, validated; None where the adapter declares no model.

        Raises:
            UnknownOptionError: an option that the model does not have.
            InvalidOptionError: a value of the wrong type or range.
        """
        return None if self.options is None else url.options(self.options)

    def wrapped_urls(self, url: RemoteURL, config: Any) -> tuple[RemoteURL, ...]:
        """The URLs of the connectors that this adapter's connector for `url` stands around; by default none.

        `config` is the manager's. `context.make_wrapped()` makes the connector of the first of them, and
        `context.make_wrapped(index)` that of any.
        """
        return ()

    def prepare(self, url: RemoteURL, settings: ConnectorConfig) -> None:  # noqa: B027 - an optional hook
        """Does in advance what would take `create_connector` long, such as an import.

        The manager calls it in a thread, before `create_connector`, where it can; maybe several times. An error that
        it raises is the failure of making the connector.
        """

    @abstractmethod
    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """A new connector for `context.url`. Makes no connection yet; does no I/O that could block."""
