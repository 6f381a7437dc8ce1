"""A soak for people."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from rich.console import Console
from rich.text import Text

from ..frame.sizes import size
from ..frame.table import BAD, GOOD, Listing, grid
from .recovery import Recovery
from .report import SoakReport, Trend

_SHOWN: Final = 5


def print_soak(report: SoakReport, console: Console) -> None:
    """Prints the operations, the faults with their recoveries, what the process used, and the verdict last."""
    operations = Listing("operation", ["calls", "failed", "p50 ms", "p99 ms", "max ms"])
    for row in report.operations:
        times = [f"{seconds * 1e3:.1f}" for seconds in (row.p50, row.p99, row.longest)]
        operations.add_row(row.operation, f"{row.calls:,}", f"{row.failed:,}", *times)
    operations.print(console)
    console.print()
    if report.recoveries:
        faults = Listing("fault", ["times", "rate before", "meanwhile", "full again, s", "worst, s"])
        by_kind: defaultdict[str, list[Recovery]] = defaultdict(list)
        for one in report.recoveries:
            by_kind[one.fault.kind].append(one)
        for kind, runs in by_kind.items():
            faults.add_row(
                kind,
                str(len(runs)),
                _rate(sum(one.before for one in runs) / len(runs)),
                _rate(sum(one.during for one in runs) / len(runs)),
                _seconds(sorted(runs, key=_in_order)[len(runs) // 2].seconds),
                _seconds(max(runs, key=_in_order).seconds),
            )
        faults.print(console)
        console.print()
    process = Listing("process", ["before", "median", "most", "growth", "after"], ["verdict"])
    for trend in report.trends:
        numbers = [
            _amount(trend, value) for value in (trend.before, trend.median, trend.most, trend.growth, trend.after)
        ]
        process.add_row(
            "memory" if trend.what == "rss" else trend.what,
            *numbers,
            Text("flat", GOOD) if trend.is_flat else Text("not flat", BAD),
        )
    process.print(console)
    console.print()
    with console.capture() as captured:
        console.print(grid(_facts(report)))
    for line in captured.get().splitlines():  # rich fills the last column with spaces
        console.print(Text.from_ansi(line.rstrip()), soft_wrap=True)
    for title, count, findings in (
        ("wrong", report.wrong_count, report.wrong),
        ("late", report.late_count, report.late),
        ("unexplained", report.unexplained_count, report.unexplained),
    ):
        for finding in findings[:_SHOWN]:
            console.print(Text.assemble((f"{title}: ", BAD), finding), soft_wrap=True)
        if count > _SHOWN:
            console.print(Text.assemble((f"{title}: ", BAD), f"{count - _SHOWN:,} more"), soft_wrap=True)
    console.print(_verdict(report), soft_wrap=True)


def _facts(report: SoakReport) -> list[tuple[str, str | Text]]:
    facts: list[tuple[str, str | Text]] = [
        ("store", report.store if report.server is None else f"{report.server}, started for this run"),
        ("load", f"{report.seconds:.0f} s, {report.tasks} tasks, seed {report.seed}"),
        ("verified", f"{report.values:,} values, {size(report.nbytes)}"),
        ("throughput", f"{_rate(report.calm_bytes_per_second)} without faults, {report.calls_per_second:,.0f} calls/s"),
        ("in the store", f"at most {size(report.most_bytes)}; {_left(report)}"),
        ("not found", f"{report.missing:,} values that were put"),
        ("latest call", f"{report.latest:.2f} s after its deadline, without the machine's lag"),
        ("lag", f"event loop {report.loop_lag:.2f} s, threads {report.thread_lag:.2f} s at most"),
        ("cancelled", f"{report.cancelled:,} calls"),
    ]
    if report.older:
        facts.append(("older values", f"{report.older:,}, after a failover: replication is asynchronous"))
    if report.errors:
        facts.append(("errors", ", ".join(f"{count:,} {name}" for name, count in report.errors)))
    if report.recoveries:
        limit = 2.0 if report.recovery_limit is None else report.recovery_limit
        quick = len(report.recoveries) - report.slow_recoveries
        facts.append(("recovery", f"{quick} of {len(report.recoveries)} within {limit:g} s after the fault"))
    return facts


def _verdict(report: SoakReport) -> Text:
    early = " (stopped early)" if report.stopped else ""
    if report.ok:
        return Text.assemble(("good", GOOD), f": no wrong value, no late call, nothing left{early}")
    return Text.assemble(("not good", BAD), f": {'; '.join(report.complaints)}{early}")


def _left(report: SoakReport) -> str:
    return "nothing left" if not report.keys_left else f"up to {report.keys_left} keys left"


def _amount(trend: Trend, value: float) -> str:
    if trend.what == "rss":
        return size(round(value))
    return f"{value:.1f}".removesuffix(".0")


def _rate(value: float) -> str:
    return f"{value / 1e6:,.0f} MB/s"


def _seconds(value: float | None) -> str:
    return "not" if value is None else f"{value:.1f}"


def _in_order(one: Recovery) -> float:
    return float("inf") if one.seconds is None else one.seconds
