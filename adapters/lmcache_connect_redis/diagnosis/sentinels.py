"""`diagnose_service`: the sentinels of a service, whether they can fail over, and the servers that they name."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.contract import Finding, Verdict

from ..topology.data_nodes import DataNodes, shown
from ..topology.placement import Address
from ..topology.sentinels import Sentinels, ServiceView
from .demands import Demands
from .replicas import diagnose_replicas
from .server import diagnose_server

_ENOUGH: Final = 3


async def diagnose_service(
    sentinels: Sentinels, nodes: DataNodes, demands: Demands, timeout: float
) -> AsyncIterator[Finding]:
    """Yields what the sentinels say and what their primary is like. Each step ends within `timeout` seconds."""
    views, failures = await _ask_all(sentinels, timeout)
    for finding in judge_sentinels(sentinels.service, views, failures):
        yield finding
    if not views:
        return
    primary = Counter(view.primary for view in views.values()).most_common(1)[0][0]
    async for finding in diagnose_server(nodes.at(primary), demands, timeout):
        yield finding
        if finding.verdict is Verdict.UNUSABLE:
            return
    try:
        async with asyncio.timeout(timeout):
            replicas = await sentinels.replicas()
    except (StoreError, TimeoutError) as error:
        yield Finding("replicas", Verdict.UNKNOWN, f"SENTINEL SLAVES: {getattr(error, 'message', 'no answer')}")
        return
    for finding in await diagnose_replicas({shown(each): nodes.at(each) for each in replicas}, timeout):
        yield finding


async def _ask_all(sentinels: Sentinels, timeout: float) -> tuple[dict[Address, ServiceView], dict[Address, str]]:
    views: dict[Address, ServiceView] = {}
    failures: dict[Address, str] = {}

    async def ask(sentinel: Address) -> None:
        try:
            async with asyncio.timeout(timeout):
                views[sentinel] = await sentinels.view_of(sentinel)
        except StoreError as error:
            failures[sentinel] = error.message
        except TimeoutError:
            failures[sentinel] = f"no answer within {timeout:g} s"

    await asyncio.gather(*map(ask, sentinels.addresses))
    return views, failures


def judge_sentinels(
    service: str, views: Mapping[Address, ServiceView], failures: Mapping[Address, str]
) -> Iterator[Finding]:
    """Yields what is to be said of the sentinels, of which some have told their view and others have failed."""
    for sentinel, why in failures.items():
        verdict = Verdict.FAILS if views else Verdict.UNUSABLE
        yield Finding("sentinels", verdict, why, "start it again, or correct the URL", (shown(sentinel),))
    if not views:
        return
    primaries = sorted({shown(view.primary) for view in views.values()})
    quorum = max((view.quorum for view in views.values() if view.quorum is not None), default=None)
    known = max((view.sentinels for view in views.values() if view.sentinels is not None), default=None)
    told = "" if quorum is None else f"; quorum {quorum}"
    found = f"{len(views)} answer for {service!r}{told}; the primary is {' or '.join(primaries)}"
    if len(primaries) > 1:
        advice = "wait until they agree; see SENTINEL MASTERS on each of them"
        yield Finding("sentinels", Verdict.HURTS, f"{found}: they do not agree", advice)
    else:
        yield Finding("sentinels", Verdict.GOOD, found)
    if known is not None and quorum is not None:
        answered = len(views)
        named = answered + len(failures)
        if named >= known and (answered < quorum or answered <= known // 2):
            found = f"{answered} of {known} sentinels answer: they cannot fail over"
            yield Finding("failover", Verdict.FAILS, found, "start the others")
        elif known < _ENOUGH:
            found = f"{known} sentinels: when one of them is lost, the others cannot fail over"
            yield Finding("failover", Verdict.HURTS, found, "run three of them, on three machines")
        elif named < known:
            found = f"the URL names {named} of {known} sentinels"
            yield Finding("failover", Verdict.NOTE, found, "name all of them: the URL works as long as one answers")
        else:
            yield Finding("failover", Verdict.GOOD, f"{answered} of {known} sentinels answer")
    replicas = max((view.replicas for view in views.values() if view.replicas is not None), default=None)
    if replicas == 0:
        found = "the primary has no replica: there is none to fail over to"
        yield Finding("replicas", Verdict.HURTS, found, "add a replica")
    down = [shown(each) for each, view in views.items() if view.is_down]
    if down:
        advice = "see the primary's log, and the sentinels'"
        yield Finding("primary", Verdict.FAILS, "it is down, as these sentinels see it", advice, tuple(down))
