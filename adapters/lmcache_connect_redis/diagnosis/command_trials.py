"""Tries the commands that chunks need, on keys of its own: which work for this user, and what it costs where not."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from lmcache_connect.contract import Finding, Verdict

from ..protocol.connection import Connection
from ..protocol.nested import Tree
from .asking import Refusal, ask
from .demands import Demands
from .server_facts import shown

_TTL_MS: Final = 60_000
"""The keys of a trial that is cut off are gone after a minute."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """One command. `needed`: chunks cannot be used without it. `without`: what is missing where it is refused."""

    command: str
    words: tuple[str, ...]
    without: str
    needed: bool = False


_NAMED: Final = 4
"""Commands that are named where the server's state forbids many."""

_PIECES: Final = "large chunks are stored whole, up to max_value_bytes"
_ANNOUNCED: Final = "workers cannot announce themselves"

_TRIALS: Final = (
    _Trial("SET", ("{a}", "value", "PX", "{ttl}"), "put", needed=True),
    _Trial("GET", ("{a}",), "get", needed=True),
    _Trial("EXISTS", ("{a}",), "exists", needed=True),
    _Trial("HSET", ("{b}", "0", "value"), _PIECES),
    _Trial("HGET", ("{b}", "0"), _PIECES),
    _Trial("HLEN", ("{b}",), _PIECES),
    _Trial("PEXPIRE", ("{b}", "{ttl}"), _PIECES),
    _Trial("PERSIST", ("{b}",), _PIECES),
    _Trial("PEXPIRE", ("{b}", "{ttl}"), _PIECES),
    _Trial("RENAME", ("{b}", "{c}"), _PIECES),
    _Trial("MULTI", (), _PIECES),
    _Trial("EXEC", (), _PIECES),
    _Trial("MULTI", (), _PIECES),
    _Trial("DISCARD", (), _PIECES),
    _Trial("SCAN", ("0", "MATCH", "{a}", "COUNT", "10"), "list, scan, clear, ls, du and cp do not work"),
    _Trial("GETRANGE", ("{a}", "0", "0"), "clear leaves what release 0.1 has stored"),
    _Trial("EVAL", ("return redis.call('TYPE', KEYS[1])", "1", "{a}"), "damaged chunks stay, as misses"),
    _Trial("TYPE", ("{a}",), "damaged chunks stay, as misses"),
    _Trial("SADD", ("{d}", "worker"), _ANNOUNCED),
    _Trial("PEXPIRE", ("{d}", "{ttl}"), _ANNOUNCED),
    _Trial("SMEMBERS", ("{d}",), _ANNOUNCED),
    _Trial("SREM", ("{d}", "worker"), _ANNOUNCED),
    _Trial("HGETALL", ("{c}",), _ANNOUNCED),
    _Trial("PING", (), "ping takes the refusal for an answer"),
    _Trial("ROLE", (), "a primary that becomes a replica is noticed by its refusals alone"),
)

_OF_CLUSTERS: Final = (_Trial("ASKING", (), "chunks in slots that are moving are misses", needed=True),)


async def try_commands(connection: Connection, demands: Demands, tag: str = "") -> list[Finding]:
    """Returns what works of the commands that are needed. The caller sets the deadline.

    `tag` stands in the braces of the names, and decides the slot of a node of a cluster; "": any.

    Raises:
        StoreError, StreamClosedError: the connection was lost.
    """
    base = f"{demands.prefix}lmcache-connect-check-{{{tag or secrets.token_hex(8)}}}"
    names = {letter: f"{base}:{letter}" for letter in "abcd"}
    trials = list(_TRIALS)
    if demands.is_ring:
        without = "remove and large puts do not work"
        trials = [replace(one, needed=True, without=without) if one.command == "GETRANGE" else one for one in trials]
    trials += _OF_CLUSTERS if connection.is_of_cluster else ()
    outcome = await _run(connection, trials, names)
    found, refused, ttl = outcome
    removal = await _remove(connection, list(names.values()), refused)
    works = [command for command in found if command not in refused]
    findings: list[Finding] = []
    if works:
        findings.append(Finding("commands", Verdict.GOOD, " ".join([*works, *removal])))
    if not removal and not any(command in refused for command in _REMOVERS):
        findings.append(Finding("UNLINK, DEL", Verdict.FAILS, "the user may use neither", "allow +unlink: remove"))
    findings += _refusals(trials, refused)
    findings += ttl
    return findings


async def try_few_commands(connection: Connection, demands: Demands) -> list[Finding]:
    """`try_commands` behind a proxy that closes the connection over commands which it lacks. Raises as that does."""
    name = f"{demands.prefix}lmcache-connect-check-{secrets.token_hex(8)}"
    trials = [trial for trial in _TRIALS if trial.needed]
    tried, refused, _ = await _run(connection, trials, {"a": name}, asks_ttl=False)
    answer = await ask(connection, b"DEL", name.encode())
    if isinstance(answer, Refusal):
        refused["DEL"] = answer
    works = [command for command in (*tried, "DEL") if command not in refused]
    return [Finding("commands", Verdict.GOOD, " ".join(works)), *_refusals(trials, refused)]


async def _run(
    connection: Connection, trials: Sequence[_Trial], names: dict[str, str], *, asks_ttl: bool = True
) -> tuple[list[str], dict[str, Refusal], list[Finding]]:
    tried: dict[str, None] = {}
    refused: dict[str, Refusal] = {}
    ttl: list[Finding] = []
    in_transaction = False
    for trial in trials:
        if trial.command in {"EXEC", "DISCARD"} and not in_transaction:
            continue
        words = [word.format(**names, ttl=_TTL_MS) if word.startswith("{") else word for word in trial.words]
        answer = await ask(connection, trial.command.encode(), *(word.encode() for word in words))
        if isinstance(answer, Refusal) and "HSET" in refused and answer.is_missing_key:
            continue  # the key was to be made by HSET: nothing is known of this command
        tried[trial.command] = None
        if isinstance(answer, Refusal):
            refused.setdefault(trial.command, answer)
        if trial.command == "MULTI":
            in_transaction = not isinstance(answer, Refusal)
        elif trial.command in {"EXEC", "DISCARD"}:
            in_transaction = isinstance(answer, Refusal)
        if asks_ttl and trial.command == "SET" and not isinstance(answer, Refusal):
            ttl = _ttl_findings(await ask(connection, b"PTTL", names["a"].encode()))
    return list(tried), refused, ttl


def _ttl_findings(answer: Tree | Refusal) -> list[Finding]:
    if isinstance(answer, Refusal):
        found = f"PTTL: {answer.reason}"
        return [Finding("TTL", Verdict.UNKNOWN, found, "allow +pttl: inspect, ls and cp show and keep TTLs by it")]
    if isinstance(answer, int) and 0 < answer <= _TTL_MS:
        return [Finding("TTL", Verdict.GOOD, "set, and read back")]
    found = f"set to {_TTL_MS} ms, and read back as {shown(repr(answer))}"
    return [Finding("TTL", Verdict.FAILS, found, "use a server that expires keys: see PEXPIRE and PTTL")]


_REMOVERS: Final = ("UNLINK", "DEL")


async def _remove(connection: Connection, names: Sequence[str], refused: dict[str, Refusal]) -> list[str]:
    """Removes the trial's keys. Returns the commands that do that."""
    removers: list[str] = []
    for command in _REMOVERS:
        answer = await ask(connection, command.encode(), *(name.encode() for name in names))
        if not isinstance(answer, Refusal):
            removers.append(command)
        elif not answer.is_lacking:
            refused.setdefault(command, answer)
    return removers


def _refusals(trials: Sequence[_Trial], refused: dict[str, Refusal]) -> list[Finding]:
    about: dict[str, _Trial] = {}
    for trial in trials:
        about.setdefault(trial.command, trial)
    findings: list[Finding] = []
    lacking: dict[tuple[str, str], list[str]] = {}
    states: dict[str, list[str]] = {}
    for command, refusal in refused.items():
        if not refusal.is_lacking:
            states.setdefault(refusal.error.message, []).append(command)
            continue
        if command not in about:
            continue
        trial = about[command]
        if trial.needed:
            advice = f"allow +{command.lower()}: {trial.without}"
            findings.append(Finding(command, Verdict.FAILS, refusal.reason, advice))
        else:
            lacking.setdefault((refusal.reason, trial.without), []).append(command)
    for (reason, without), commands in lacking.items():
        verdict = Verdict.HURTS if without in {_PIECES, about["SCAN"].without} else Verdict.NOTE
        advice = f"allow {' '.join('+' + command.lower() for command in commands)}: without, {without}"
        findings.append(Finding(" ".join(commands), verdict, reason, advice))
    for message, commands in states.items():
        more = f" and {len(commands) - _NAMED} more" if len(commands) > _NAMED else ""
        findings.append(Finding(" ".join(commands[:_NAMED]) + more, Verdict.FAILS, message))
    return findings
