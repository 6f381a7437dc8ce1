"""What a store holds, for people. GB and MiB: see `frame/sizes.py`."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ...metadata import ChunkMetadata
from ..frame.output import escaped
from ..frame.payloads import Reading
from ..frame.sizes import size
from ..frame.table import BAD, GOOD, QUIET, Listing, grid
from ..frame.times import span
from .clear import ClearReport, Survey
from .du import UsageReport
from .inspection import InspectReport
from .ls import Row
from .rm import RemovalReport

LONG_HEADING = f"{'SIZE':>9}  {'TTL':>8}  {'AGE':>8}  KEY"
"""What stands above the lines of `ls --long`."""


def line_of(row: Row) -> str:
    """A line of `ls --long`: size, time to live, age, and the key last, since it is the longest."""
    facts = row.facts
    if facts is None:
        return f"{'gone':>9}  {'-':>8}  {'-':>8}  {escaped(row.key)}"
    stored = "-" if facts.stored_bytes is None else size(facts.stored_bytes)
    return f"{stored:>9}  {span(facts.ttl):>8}  {span(facts.age):>8}  {escaped(row.key)}"


def print_inspection(report: InspectReport, console: Console) -> None:
    """Prints the facts of a key, one below the other, and last whether it is whole."""
    facts = report.facts
    rows: list[tuple[str, str | Text]] = [("key", escaped(report.key)), ("store", report.store)]
    if facts is None:
        console.print(grid([*rows, ("result", Text("there is no such key", BAD))]))
        return
    parts = report.parts
    told = [
        ("model", parts.model),
        ("tenant", parts.tenant),
        ("worker", parts.worker),
        ("layer", "" if parts.layer is None else str(parts.layer)),
        ("tags", ", ".join(f"{name}={value}" for name, value in parts.tags)),
    ]
    rows += [(name, escaped(value)) for name, value in told if value]
    metadata = report.metadata
    if facts.server not in {"", report.label}:
        rows.append(("lies on", facts.server))
    if facts.form:
        pieces = f", {facts.pieces} pieces" if facts.pieces > 1 else ""
        rows.append(("stored as", facts.form + pieces))
    payload = metadata.nbytes if metadata is not None else facts.nbytes
    if payload is not None:
        rows.append(("payload", _bytes(payload)))
    if facts.stored_bytes is not None:
        rows.append(("in the store", _bytes(facts.stored_bytes)))
    if metadata is not None:
        rows += _chunk_rows(metadata)
    rows.append(
        (
            "expires",
            "not known" if facts.ttl is None else "never" if facts.ttl == float("inf") else f"in {span(facts.ttl)}",
        )
    )
    if facts.age is not None:
        rows.append(("age", span(facts.age)))
    if facts.idle is not None:
        rows.append(("unused for", span(facts.idle)))
    if facts.sums:
        count = len(facts.sums)
        rows.append(("checksum", f"{facts.sums[0].xxh3:016x}" if count == 1 else f"{count}, one for each piece"))
    rows += [("problem", Text(escaped(problem), BAD)) for problem in report.problems]
    rows.append(("result", _verdict(report)))
    console.print(grid(rows))


def _chunk_rows(metadata: ChunkMetadata) -> list[tuple[str, str | Text]]:
    shapes = [
        f"{'×'.join(map(str, shape))} {dtype.name}"
        for shape, dtype in zip(metadata.shapes, metadata.dtypes, strict=True)
    ]
    return [("format", metadata.fmt.name), ("shape" if len(shapes) == 1 else "shapes", ", ".join(shapes))]


def _verdict(report: InspectReport) -> Text:
    if report.problems:
        return Text("damaged", BAD)
    match report.reading:
        case Reading.READ if report.facts is not None and report.facts.sums:
            return Text("whole: the checksum verifies, and the record is this key's", GOOD)
        case Reading.READ if report.facts is not None and report.facts.metadata is not None:
            return Text("read whole; the record has no checksum that would show damage", GOOD)
        case Reading.READ:
            return Text("read whole; the store does not tell whether its record has a checksum", GOOD)
        case Reading.TOO_LARGE:
            return Text(f"its header is right; the payload was not read: {report.why}")
        case _:
            return Text("nothing is wrong as far as that shows without the payload")


def print_removal(report: RemovalReport, console: Console, *, verbose: bool) -> None:
    """Prints the keys that were not removed, and how many were."""
    if verbose:
        for key in report.removed:
            console.print(f"removed {escaped(key)}", soft_wrap=True)
    for what, style, keys in (
        ("no such key", QUIET, report.missing),
        ("cannot be a key", BAD, report.invalid),
        ("not removed", BAD, report.failed),
    ):
        for key in keys:
            console.print(Text.assemble((what, style), f" {escaped(key)}"), soft_wrap=True)
    console.print(f"{_count(len(report.removed), 'key')} removed from {report.store}", soft_wrap=True)


def told_survey(survey: Survey) -> str:
    """A line about what stands under a prefix."""
    under = f"under {escaped(survey.prefix)!r}" if survey.prefix else "in the whole store"
    text = f"{_count(survey.chunks, 'chunk')} of {size(survey.nbytes)} {under} at {survey.store}"
    if survey.unknown:
        text += f" ({survey.unknown} of unknown size)"
    if survey.left_out:
        text += f"; {_count(survey.left_out, 'name')} of other programs stay"
    return text


def print_clearing(report: ClearReport, console: Console) -> None:
    """Prints what was removed, or that nothing was."""
    cleared = report.cleared
    if cleared is None:
        console.print("nothing was removed")
        return
    text = f"{_count(cleared.removed, 'chunk')} removed"
    if cleared.outdated:
        text += f", and {_count(cleared.outdated, 'name')} of an earlier release"
    console.print(text)
    if cleared.failed:
        console.print(
            Text(f"{_count(cleared.failed, 'chunk')} not removed: {cleared.error or 'the store did not say why'}", BAD)
        )


def print_usage(report: UsageReport, console: Console, top: int) -> None:
    """Prints the largest groups, and the sum of all."""
    listing = Listing(report.by, ("size", "share", "chunks", "expire"), ("largest",))
    shown = report.groups[:top]
    for group in shown:
        share = group.nbytes / report.total.nbytes if report.total.nbytes else 0.0
        listing.add_row(
            escaped(group.name) or "(empty)",
            size(group.nbytes) + ("+?" if group.unknown else ""),
            f"{share:.1%}",
            str(group.chunks),
            str(group.expiring) if group.expiring else "-",
            size(group.largest_bytes) if group.largest else "-",
        )
    if shown:
        listing.print(console)
    if len(report.groups) > top:
        console.print(f"and {_count(len(report.groups) - top, 'further group')} (--top)")
    total = report.total
    unknown = f"; the size of {_count(total.unknown, 'chunk')} is not known" if total.unknown else ""
    console.print(f"{_count(total.chunks, 'chunk')}, {size(total.nbytes)} at {report.store}{unknown}", soft_wrap=True)
    if report.left_out:
        console.print(f"{_count(report.left_out, 'name')} of other programs not counted")


def _bytes(nbytes: int) -> str:
    return f"{size(nbytes)} ({nbytes} bytes)" if nbytes >= 1024 else f"{nbytes} bytes"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
