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
    """The names that a URL's scheme is looked up by, in this order: itself and, for `name+redis`, `name+<scheme>`."""
    name, sign, rest = scheme.partition("+")
    return (scheme, f"{name}+{ANY_SCHEME}") if sign and rest else (scheme,)


class ConnectorOptions(URLOptions):
    """Options that every adapter with typed options takes; they override the manager's configuration."""

    timeout: Seconds | None = None
    """The deadline of one operation in seconds, to which the time for its bytes is added."""

    errors: ErrorMode | None = None
    """`raise` or `miss`."""

    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    """How often a failed attempt is repeated inside the deadline."""


class ConnectorAdapter(ABC):
    """Makes connectors for the URLs of one or several schemes.

    Instances need no arguments and hold no connection: they are recipes. `schema` is the prefix that LMCache's
    adapters have ("redis://"); `schemes` names more than one, and `name+<scheme>` a whole family. A subclass that has
    typed options names their model, and the manager then refuses a URL with any other option before it makes a
    connector.
    """

    schema: str = ""
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[type[ConnectorOptions] | None] = None

    def __init__(self, schema: str = "") -> None:
        if schema:
            self.schema = schema

    def known_schemes(self) -> tuple[str, ...]:
        """Every scheme that this adapter answers for, without `://`."""
        own = (self.schema.partition("://")[0].lower(),) if self.schema else ()
        return tuple(dict.fromkeys((*own, *map(str.lower, self.schemes))))

    def can_parse(self, url: str) -> bool:
        """Whether the URL's scheme is one of this adapter's, exactly."""
        scheme, sign, _ = url.partition("://")
        return bool(sign) and not set(scheme_names(scheme.lower())).isdisjoint(self.known_schemes())

    def parse_options(self, url: RemoteURL) -> ConnectorOptions | None:
        """The URL's options, checked; None where the adapter has no typed ones. Raises as `RemoteURL.options` does."""
        return None if self.options is None else url.options(self.options)

    def wrapped_url(self, url: RemoteURL, config: Any) -> RemoteURL | None:
        """The URL of the connector that this adapter's connector for `url` is put around; None where there is none.

        `config` is the manager's. `context.make_wrapped()` then makes that connector.
        """
        return None

    def prepare(self, url: RemoteURL, settings: ConnectorConfig) -> None:  # noqa: B027 - an optional hook
        """Does in advance what would take `create_connector` long, such as an import.

        Called outside the event loop, maybe several times, and before `create_connector` where the manager can. What
        it raises is the failure of making the connector.
        """

    @abstractmethod
    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """A new connector for `context.url`. Makes no connection yet; does no I/O that could block."""
