"""`PrefixAdapter`: answers for `prefix+<scheme>://`, a store of any other scheme with something in front of it."""

from __future__ import annotations

from typing import Any, ClassVar

from ..url import RemoteURL
from .adapter import ANY_SCHEME, ConnectorAdapter, ConnectorOptions


class PrefixAdapter(ConnectorAdapter):
    """Answers for `prefix+<scheme>://...`, such as `fault+redis://host?ttl=60&fault_seed=7`, whose prefix is `fault`.

    Options whose names begin with `prefix_` are the adapter's own, and its model `options` describes them. The rest of
    the URL is that of the connector inside, which `context.make_wrapped()` makes with the same event loop and
    configuration. Adapters of different kinds may stand around each other: `fault+audit+redis://...`.
    """

    prefix: ClassVar[str]

    def known_schemes(self) -> tuple[str, ...]:
        """`prefix+<scheme>`, and the schemes that the adapter names besides."""
        return (f"{self.prefix}+{ANY_SCHEME}", *super().known_schemes())

    def is_wrapping(self, url: RemoteURL) -> bool:
        """Whether the URL is `prefix+<scheme>://...`."""
        return url.scheme.startswith(f"{self.prefix}+")

    def parse_options(self, url: RemoteURL) -> ConnectorOptions | None:
        """This adapter's own options, validated. Raises as `ConnectorAdapter.parse_options` does."""
        return super().parse_options(url.with_options_of(self.prefix) if self.is_wrapping(url) else url)

    def wrapped_urls(self, url: RemoteURL, config: Any) -> tuple[RemoteURL, ...]:
        """The URL behind the prefix, without this adapter's own options.

        Raises:
            InvalidURLError: what stands behind the prefix is not a URL.
        """
        return (url.unwrapped(self.prefix),) if self.is_wrapping(url) else ()
