"""Several servers of one store: they are looked at side by side, and what is the same of them is said once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from lmcache_connect.contract import Finding, Verdict

_SIDE_BY_SIDE: Final = 16
_SHOWN_TEXTS: Final = 3

_BY_WEIGHT: Final = {verdict: at for at, verdict in enumerate(Verdict)}


async def diagnose_side_by_side(
    diagnoses: Mapping[str, Callable[[], AsyncIterator[Finding]]], *, all_needed: bool = False
) -> list[Finding]:
    """Returns what is found about servers, by their names. One that cannot be reached is a failure of its own.

    Where none can be reached, the last finding is `UNUSABLE`. With `all_needed` False that holds for these alone: one
    that cannot be reached hurts, and the store is used without it.
    """
    limit = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def collect(begin: Callable[[], AsyncIterator[Finding]]) -> list[Finding]:
        async with limit:
            return [finding async for finding in begin()]

    names = list(diagnoses)
    collected = await asyncio.gather(*(collect(begin) for begin in diagnoses.values()))
    findings = merged(dict(zip(names, collected, strict=True)))
    lost = [name for name, found in zip(names, collected, strict=True) if _is_unusable(found)]
    if all_needed and len(lost) == len(names):
        return findings
    weaker = Verdict.FAILS if all_needed else Verdict.HURTS
    return [replace(one, verdict=weaker) if one.verdict is Verdict.UNUSABLE else one for one in findings]


def merged(by_server: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    """Returns the findings about all servers. What is the same of several is one finding that names them.

    Those about one subject stand together, in the order in which a server's own findings come.
    """
    subjects: dict[str, None] = {}
    groups: dict[tuple[str, Verdict, str], list[tuple[str, Finding]]] = {}
    for server, findings in by_server.items():
        for finding in findings:
            subjects[finding.subject] = None
            groups.setdefault((finding.subject, finding.verdict, finding.advice), []).append((server, finding))
    reached = sum(not _is_unusable(findings) for findings in by_server.values())
    result: list[Finding] = []
    for subject in subjects:
        own = [(key, members) for key, members in groups.items() if key[0] == subject]
        for (_, verdict, _), members in sorted(own, key=lambda item: _BY_WEIGHT[item[0][1]]):
            result.append(_one_for(members, verdict, reached))
    return result


def _one_for(members: Sequence[tuple[str, Finding]], verdict: Verdict, reached: int) -> Finding:
    servers = tuple(dict.fromkeys(server for server, _ in members))
    texts = list(dict.fromkeys(finding.found for _, finding in members))
    first = members[0][1]
    if len(servers) == 1:
        return replace(first, servers=servers)
    if len(texts) == 1:
        found = texts[0]
    elif verdict is Verdict.GOOD:
        found = "; ".join(texts[:_SHOWN_TEXTS]) + ("; ..." if len(texts) > _SHOWN_TEXTS else "")
    else:
        found = "; ".join(f"{server}: {finding.found}" for server, finding in members)
    named = servers if len(servers) < reached else ()
    counted = f"{len(servers)} servers" + (f": {found}" if found else "")
    return replace(first, found=counted, servers=named)


def _is_unusable(findings: Sequence[Finding]) -> bool:
    return any(finding.verdict is Verdict.UNUSABLE for finding in findings)
