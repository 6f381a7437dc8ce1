"""Spans for OpenTelemetry, where the application has it and has configured a tracer. Nothing is imported for it."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from .._version import __version__


class Span(Protocol):
    """What is used of `opentelemetry.trace.Span`."""

    def set_attribute(self, key: str, value: Any) -> None: ...

    def set_status(self, status: Any, description: str | None = None) -> None: ...


class Tracer(Protocol):
    """What is used of `opentelemetry.trace.Tracer`."""

    def start_as_current_span(self, name: str, **settings: Any) -> Any: ...


def current_tracer() -> Tracer | None:
    """The tracer of the provider that the application has set; None where it has set none.

    An application that wants spans has imported the package to say so, so it is looked for and never imported.
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
    """Says in a span that its operation failed: by the error's class, never by its message, which may name a key."""
    trace = sys.modules["opentelemetry.trace"]
    span.set_attribute("error.type", error)
    span.set_status(trace.StatusCode.ERROR, error)
