"""The work of `lmcache-connect check`: what the store's connector tells, and then the calls that applications make."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from ...contract import Diagnosable, Finding, RemoteConnector, Verdict, WrappingConnector, end_scan
from ...managed import ManagedConnector
from ...manager import AdapterRegistry, ConnectorManager
from ...memory import LocalCPUBackend
from ...url import RemoteURL
from ..frame.opening import command_config
from ..frame.own_keys import OwnKeys
from ..frame.room import room_for_chunks
from ..frame.store_options import short_lived, store_option
from .connector_trials import SMALL_BYTES, ConnectorTrials
from .report import CheckReport

_STEPS_AT_ONCE: Final = 5
"""How many steps a connector's diagnosis may make until it tells the next finding."""

_STRIPES: Final = 5
"""A chunk of more than four stripes is stored in pieces."""

_LARGE_BYTES: Final = 32 << 20
_LEAST_BYTES: Final = 1 << 20


async def run_check(
    url: str,
    *,
    timeout: float = 5.0,
    max_bytes: int = 64 << 20,
    anyway: bool = False,
    on_finding: Callable[[Finding], None] = lambda _: None,
    on_warning: Callable[[str], None] = lambda _: None,
) -> CheckReport:
    """Checks the store at `url`. Each step ends within `timeout` seconds.

    Writes under keys of its own, which expire where the store can do that, at most `max_bytes` at a time. Removes them,
    also where it is cancelled. A large chunk, which would evict those of others, is left out, unless `anyway` is set.
    `on_finding` is told each finding when it is made.

    Raises:
        LMCacheConnectError: the URL is wrong, or its adapter cannot be loaded.
    """
    started = time.perf_counter()
    remote_url = RemoteURL.parse(url)
    config = command_config(operation_timeout=timeout)
    findings: list[Finding] = []
    large = min(_LARGE_BYTES, max(max_bytes - 2 * SMALL_BYTES, SMALL_BYTES)) // SMALL_BYTES * SMALL_BYTES
    with LocalCPUBackend(2 * large + _LEAST_BYTES) as backend:
        async with ConnectorManager(None, None, backend, config) as manager:
            connector = await manager.open_connector(short_lived(remote_url, manager.registry))
            async for finding in _findings(manager, connector, backend, timeout, large, anyway, on_warning):
                findings.append(finding)
                on_finding(finding)
    return CheckReport(remote_url.redacted(), tuple(findings), time.perf_counter() - started)


async def _findings(
    manager: ConnectorManager,
    connector: ManagedConnector,
    backend: LocalCPUBackend,
    timeout: float,
    large: int,
    anyway: bool,
    on_warning: Callable[[str], None],
) -> AsyncIterator[Finding]:
    for each in _inside(connector):
        if isinstance(each, Diagnosable):
            async for finding in _diagnosed(each, timeout):
                yield finding
                if finding.verdict is Verdict.UNUSABLE:
                    return
    keys = OwnKeys("check")
    fresh = None
    if connector.find_hot_cache() is not None:  # what it has put itself, it would read from there
        fresh = await manager.open_connector(_innermost(connector.context.remote_url))
    stripe = _stripe_of(connector.context.remote_url, manager.registry)
    in_pieces = stripe if 0 < _STRIPES * stripe <= large else 0
    ttl = store_option(connector.context.remote_url, manager.registry, "ttl")
    trials = ConnectorTrials(connector, backend, keys, timeout, large, in_pieces, ttl, fresh)
    reached = await trials.reached()
    yield reached
    if reached.verdict is Verdict.UNUSABLE:
        return
    room = None if anyway else await room_for_chunks(connector)
    try:
        async for finding in trials.findings(room):
            yield finding
    finally:
        await keys.clean_up(connector, on_warning)


def _inside(connector: ManagedConnector) -> Iterator[RemoteConnector]:
    """Yields the connector that the adapter made, and those inside it."""
    each: RemoteConnector = connector.wrapped
    yield each
    while isinstance(each, WrappingConnector):
        each = each.wrapped
        yield each


async def _diagnosed(connector: Diagnosable, timeout: float) -> AsyncIterator[Finding]:
    """Yields what a connector tells. One that stands still is a finding, and is not waited for."""
    limit = _STEPS_AT_ONCE * timeout
    findings = connector.diagnose(timeout)
    try:
        while True:
            try:
                async with asyncio.timeout(limit):
                    finding = await anext(findings, None)
            except TimeoutError:
                yield Finding("diagnosis", Verdict.FAILS, f"the connector told nothing for {limit:g} s")
                return
            if finding is None:
                return
            yield finding
    finally:
        await end_scan(findings)


def _innermost(url: RemoteURL) -> RemoteURL:
    """The URL of the store itself, without the wrappers around it."""
    while "+" in url.scheme:
        url = url.unwrapped(url.scheme.partition("+")[0])
    return url


def _stripe_of(url: RemoteURL, registry: AdapterRegistry) -> int:
    """The size of the pieces in which the store keeps large chunks; 0 where its options tell none."""
    stripe = store_option(url, registry, "stripe")
    return stripe if isinstance(stripe, int) and store_option(url, registry, "layout") != "lmcache" else 0
