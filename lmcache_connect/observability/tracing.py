"""Spans for OpenTelemetry, where the application uses it and has set a tracer provider. It is never imported here."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from .._version import __version__


class Span(Protocol):
    """The methods of `opentelemetry.trace.Span` that are used here."""

    def set_attribute(self, key: str, value: Any) -> None: ...

    def set_status(self, status: Any, description: str | None = None) -> None: ...


class Tracer(Protocol):
    """The method of `opentelemetry.trace.Tracer` that is used here."""

    def start_as_current_span(self, name: str, **settings: Any) -> Any: ...


def current_tracer() -> Tracer | None:
    """A tracer from the provider that the application has set; None where it has not set one.

    An application that sets a provider has imported OpenTelemetry, so a look into `sys.modules` finds it.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        return None
    tracer: Tracer = provider.get_tracer("lmcache_connect", __version__)
    return tracer


def mark_failed(span: Span, error: str) -> None:
    """Marks a span as failed, with the name of the error's class. The message is left out, as it may contain a key."""
    trace = sys.modules["opentelemetry.trace"]
    span.set_attribute("error.type", error)
    span.set_status(trace.StatusCode.ERROR, error)
