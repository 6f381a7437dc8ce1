"""Presentation: reports as tables for people, and as JSON for programs. Sizes are bytes, GB is 10^9 bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from ..errors import MissingExtraError
from .demo_report import Call, DemoReport, KindReport
from .ping import PingReport
from .plugins import PluginReport
from .schemes import SchemeReport
from .serving import Serving

try:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ImportError as missing:
    raise MissingExtraError("lmcache-connect", missing.name or "typer", "cli") from missing


GB: Final = 1e9

_GOOD: Final = "green"
_BAD: Final = "bold red"
_QUIET: Final = "dim"


def print_demo(report: DemoReport, console: Console) -> None:
    """The table of the kinds of chunk, then the facts of the whole run, then the verdict."""
    table = _table(
        "chunk",
        ("count", "size", "put\nGB/s", "get\nGB/s", "p50\nms", "hits", "misses", "verified"),
    )
    for kind in report.kinds:
        table.add_row(
            kind.kind.name,
            str(kind.kind.count),
            size(kind.kind.chunk.nbytes),
            f"{kind.put_rate / GB:.2f}",
            f"{kind.get_rate / GB:.2f}",
            f"{kind.get_seconds * 1e3:.2f}",
            _compared(kind.hits, kind.expected_hits),
            _compared(kind.misses, kind.expected_misses),
            _share(kind.verified, kind.expected_hits),
        )
    longest = report.longest
    facts = [
        ("store", ", ".join(filter(None, (report.server, report.store)))),
        ("moved", f"{report.bytes_put / GB:.2f} GB put, {report.bytes_got / GB:.2f} GB got"),
        ("time", f"{report.seconds:.2f} s" + (f"; longest call {_call(longest)}" if longest.operation else "")),
        ("keys", _keys(report)),
        ("arena", f"balance {report.arena_balance} of {size(report.arena_capacity)}, {report.arena_objects} objects"),
    ]
    if report.retries:
        facts.append(("retries", str(report.retries)))
    if report.corrupt:
        facts.append(("corrupt", ", ".join(f"{count} ({reason})" for reason, count in report.corrupt.items())))
    for problem, times in report.problems.items():
        facts.append(("problem", problem + (f" ({times} times)" if times > 1 else "")))
    console.print(table)
    console.print()
    console.print(_grid([*facts, ("result", _verdict(report))]))
    console.print(
        Text(
            f"\nGB is 10^9 bytes. Rates are of batches, the median of {report.rounds} rounds; p50 is of single gets. "
            "Hits and misses count the answers of all gets; the misses are those of keys never written, or removed.",
            _QUIET,
        ),
        width=min(console.width, 100),
    )


def demo_document(report: DemoReport) -> dict[str, Any]:
    """The report for `--json`. Sizes are bytes, times seconds, rates bytes per second."""
    return {
        "ok": report.ok,
        "store": report.store,
        "server": report.server,
        "model_name": report.model_name,
        "seed": report.seed,
        "rounds": report.rounds,
        "kinds": [_kind_document(kind) for kind in report.kinds],
        "bytes_put": report.bytes_put,
        "bytes_got": report.bytes_got,
        "seconds": report.seconds,
        "longest_call": asdict(report.longest),
        "arena": {
            "capacity": report.arena_capacity,
            "balance": report.arena_balance,
            "objects": report.arena_objects,
        },
        "keys": {
            "written": report.keys_written,
            "removed": report.keys_removed,
        },
        "retries": report.retries,
        "corrupt": report.corrupt,
        "problems": report.problems,
    }


def print_ping(report: PingReport, console: Console) -> None:
    """One line."""
    asked = "" if report.operation == "ping" else f" ({report.operation})"
    console.print(
        Text.assemble(
            report.store,
            (" answers", _GOOD),
            f": round trip {_ms(report.round_trip_seconds)} ms{asked}, connected in {_ms(report.connect_seconds)} ms",
        ),
        soft_wrap=True,
    )


def ping_document(report: PingReport) -> dict[str, Any]:
    """The report for `--json`. Times are milliseconds."""
    return {
        "ok": True,
        "store": report.store,
        "operation": report.operation,
        "connect_ms": report.connect_seconds * 1e3,
        "round_trip_ms": report.round_trip_seconds * 1e3,
    }


def print_serving(serving: Serving, console: Console) -> None:
    """Where it listens, and a line per store."""
    facts: list[tuple[str, str | Text]] = [("serving", Text(serving.address, _GOOD))]
    if serving.metrics_address is not None:
        facts.append(("metrics", f"{serving.metrics_address}/metrics"))
    for store in serving.stores:
        style = _BAD if store.health == "failing" else ""
        facts.append((store.connector, Text.assemble(store.store, " ", (store.health, style))))
    console.print(_grid(facts), soft_wrap=True)


def serving_document(serving: Serving) -> dict[str, Any]:
    """The same for `--json`."""
    return {"ok": True, **asdict(serving)}


def print_schemes(reports: Sequence[SchemeReport], console: Console) -> None:
    """One row per scheme, and below the table why an adapter cannot be loaded."""
    table = _table("scheme", (), ("adapter", "loads"))
    for report in reports:
        table.add_row(f"{report.scheme}://", report.adapter, Text("yes", _GOOD) if report.loads else Text("no", _BAD))
    console.print(table)
    for report in reports:
        if report.error is not None:
            console.print(Text(report.error, _BAD), soft_wrap=True)


def schemes_document(reports: Sequence[SchemeReport]) -> dict[str, Any]:
    """The schemes for `--json`."""
    return {"schemes": [asdict(report) | {"loads": report.loads} for report in reports]}


def print_plugins(reports: Sequence[PluginReport], console: Console) -> None:
    """One row per plug-in, and below the table why one cannot be loaded."""
    if not reports:
        console.print("no plug-ins: LMCACHE_CONNECT_REMOTE_STORAGE_PLUGINS names none, and none is installed")
        return
    table = _table("plug-in", (), ("class", "from", "loads"))
    for report in reports:
        loads = Text("yes", _GOOD) if report.loads else Text("no", _BAD)
        table.add_row(report.url, report.target, report.source, loads)
    console.print(table)
    for report in reports:
        if report.error is not None:
            console.print(Text(f"{report.url}: {report.error}", _BAD), soft_wrap=True)


def plugins_document(reports: Sequence[PluginReport]) -> dict[str, Any]:
    """The plug-ins for `--json`."""
    return {"plugins": [asdict(report) | {"loads": report.loads} for report in reports]}


def error_document(error: Exception) -> dict[str, Any]:
    """What `--json` prints where there is nothing to report."""
    return {"ok": False, "error": {"type": type(error).__name__, "message": str(error)}}


def size(nbytes: int) -> str:
    """A chunk's size in binary units, exact to a tenth."""
    value, unit = (nbytes / (1 << 20), "MiB") if nbytes >= 1 << 20 else (nbytes / (1 << 10), "KiB")
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


# --------------------------------------------------------------------------------------------------- its parts


def _table(first: str, numbers: Sequence[str], texts: Sequence[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(first, vertical="top")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name in texts:
        table.add_column(name, overflow="fold")
    return table


def _grid(facts: Sequence[tuple[str, str | Text]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=_QUIET, no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        # As Text, because a URL's brackets are no markup.
        grid.add_row(name, value if isinstance(value, Text) else Text(value, _BAD if name == "problem" else ""))
    return grid


def _compared(count: int, expected: int) -> Text:
    return Text(str(count)) if count == expected else Text(f"{count}, not {expected}", _BAD)


def _share(count: int, whole: int) -> Text:
    return Text(f"{count}/{whole}", _GOOD if count == whole else _BAD)


def _call(call: Call) -> str:
    chunks = f" of {call.chunks} chunks" if call.chunks > 1 else ""
    return f"{call.seconds:.3f} s ({call.operation}{chunks})"


def _keys(report: DemoReport) -> str:
    left = report.keys_written - report.keys_removed
    return f"{report.keys_written} written, {report.keys_removed} removed" + (
        f"; {left} are left, of the model {report.model_name}" if left else ""
    )


def _verdict(report: DemoReport) -> Text:
    if report.ok:
        return Text("every byte verified", _GOOD)
    return Text("NOT verified: see what is red", _BAD)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def _kind_document(report: KindReport) -> dict[str, Any]:
    chunk = report.kind.chunk
    return {
        "name": report.kind.name,
        "count": report.kind.count,
        "chunk_bytes": chunk.nbytes,
        "shapes": [list(shape) for shape in chunk.shapes],
        "dtypes": [dtype.name for dtype in chunk.dtypes],
        "format": chunk.fmt.name,
        "put_bytes_per_second": report.put_rate,
        "get_bytes_per_second": report.get_rate,
        "get_p50_seconds": report.get_seconds,
        "hits": report.hits,
        "expected_hits": report.expected_hits,
        "misses": report.misses,
        "expected_misses": report.expected_misses,
        "verified": report.verified,
        "ok": report.ok,
    }
