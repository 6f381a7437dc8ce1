"""What the options of a URL say of the store itself: the innermost one, where the URL has wrappers around it."""

from __future__ import annotations

from typing import Any, Final

from ...contract import ConnectorOptions
from ...manager import AdapterRegistry
from ...url import RemoteURL

TTL_SECONDS: Final = 600
"""What a command that was killed leaves is gone after so long, where the store has a TTL."""


def short_lived(url: RemoteURL, registry: AdapterRegistry, ttl: int = TTL_SECONDS) -> RemoteURL:
    """The URL with `?ttl=`, where its store has that option and the URL does not give it; without `?errors=`."""
    options = _options_of(url, registry)
    location, _, query = url.raw.get_secret_value().partition("?")
    fields = [field for field in query.split("&") if field and not field.startswith("errors=")]
    if options is not None and "ttl" in options.option_names() and "ttl" not in url.query:
        fields.append(f"ttl={ttl}")
    return RemoteURL.parse(location + ("?" + "&".join(fields) if fields else ""))


def store_option(url: RemoteURL, registry: AdapterRegistry, name: str) -> Any:
    """The value of one of the store's options: the URL's, or its default. None where the store has no such option."""
    options = _options_of(url, registry)
    if options is None or name not in options.model_fields:
        return None
    given = url.query.get(name)
    if given is None:
        return options.model_fields[name].default
    return getattr(options.model_validate({name: given.get_secret_value()}), name)


def _options_of(url: RemoteURL, registry: AdapterRegistry) -> type[ConnectorOptions] | None:
    adapter = registry.load(url.scheme.rpartition("+")[2])
    return None if adapter is None else adapter.options
