"""Tables on a terminal: one for each report. GB is 10^9 bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..errors import MissingExtraError
from .demo_report import Call, DemoReport
from .engines import EnginesReport
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
    """Prints a table of the kinds of chunk, the facts of the whole run, and the result."""
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
    console.print(_grid([*facts, ("result", _result(report))]))
    console.print(
        Text(
            f"\nGB is 10^9 bytes. Rates are of batches, the median of {report.rounds} rounds; p50 is of single gets. "
            "Hits and misses count the answers of all gets. The misses are of keys that were never put, or removed.",
            _QUIET,
        ),
        width=min(console.width, 100),
    )


def print_ping(report: PingReport, console: Console) -> None:
    """Prints a line with the store and the times, and one for each of its servers that has not answered."""
    asked = "" if report.operation == "ping" else f" ({report.operation})"
    console.print(
        Text.assemble(
            report.store,
            (" answers", _GOOD),
            f": round trip {_ms(report.round_trip_seconds)} ms{asked}, connected in {_ms(report.connect_seconds)} ms",
        ),
        soft_wrap=True,
    )
    for server in report.silent:
        why = server.detail.removeprefix(f"{server.server}: ")
        console.print(Text.assemble(server.server, (" does not answer", _BAD), f": {why}"), soft_wrap=True)


def print_serving(serving: Serving, console: Console) -> None:
    """Prints the addresses, and a line for each store with its health."""
    facts: list[tuple[str, str | Text]] = [("serving", Text(serving.address, _GOOD))]
    if serving.metrics_address is not None:
        facts.append(("metrics", f"{serving.metrics_address}/metrics"))
    for store in serving.stores:
        style = _BAD if store.health == "failing" else ""
        facts.append((store.connector, Text.assemble(store.store, " ", (store.health, style))))
    console.print(_grid(facts), soft_wrap=True)


def print_engines(report: EnginesReport, console: Console) -> None:
    """Prints one row for each engine, then each text on a line of its own, then the notes."""
    table = _table("engine", (), ("package", "installed"))
    for engine in report.engines:
        installed = Text("no", _QUIET) if engine.version is None else Text(engine.version, _GOOD)
        table.add_row(engine.engine, engine.package, installed)
    console.print(table)
    for engine in report.engines:
        for each in engine.texts:
            console.print(Text(f"\n{engine.engine}, {each.way}:", _QUIET))
            console.print(Text(each.text), soft_wrap=True)
    if report.notes:
        console.print()
    for note in report.notes:
        console.print(Text(note), soft_wrap=True)


def print_schemes(reports: Sequence[SchemeReport], console: Console) -> None:
    """Prints one row for each scheme, and below the table the errors of adapters that do not load."""
    table = _table("scheme", (), ("adapter", "loads"))
    for report in reports:
        table.add_row(f"{report.scheme}://", report.adapter, Text("yes", _GOOD) if report.loads else Text("no", _BAD))
    console.print(table)
    for report in reports:
        if report.error is not None:
            console.print(Text(report.error, _BAD), soft_wrap=True)


def print_plugins(reports: Sequence[PluginReport], console: Console) -> None:
    """Prints one row for each plug-in, and below the table the errors of those that do not load."""
    if not reports:
        console.print(
            "no plug-ins: LMCACHE_CONNECT_REMOTE_STORAGE_PLUGINS is empty, and no package that has one is installed"
        )
        return
    table = _table("plug-in", (), ("class", "from", "loads"))
    for report in reports:
        loads = Text("yes", _GOOD) if report.loads else Text("no", _BAD)
        table.add_row(report.url, report.target, report.source, loads)
    console.print(table)
    for report in reports:
        if report.error is not None:
            console.print(Text(f"{report.url}: {report.error}", _BAD), soft_wrap=True)


def size(nbytes: int) -> str:
    """A chunk's size in MiB or KiB, rounded to a tenth."""
    value, unit = (nbytes / (1 << 20), "MiB") if nbytes >= 1 << 20 else (nbytes / (1 << 10), "KiB")
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


# ------------------------------------------------------------------------------------------------------ parts


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
        # As Text, because rich takes brackets in a plain string, such as a URL's, for markup.
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
        f"; {left} are left, with the model name {report.model_name}" if left else ""
    )


def _result(report: DemoReport) -> Text:
    if report.ok:
        return Text("every byte verified", _GOOD)
    return Text("NOT verified: see the red lines above", _BAD)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"
