"""Copies, for people."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.text import Text

from ..frame.output import escaped
from ..frame.sizes import size
from ..frame.table import BAD, GOOD, grid
from ..frame.times import span
from .copying import CopyReport
from .files import FileReport
from .tally import Outcome

_WORDS: Final = {
    Outcome.COPIED: "copied",
    Outcome.SKIPPED: "same there",
    Outcome.DIFFERS: "differs",
    Outcome.DAMAGED: "damaged",
    Outcome.MISSING: "gone",
    Outcome.FAILED: "failed",
}
_BAD: Final = (Outcome.DIFFERS, Outcome.DAMAGED, Outcome.FAILED)
_SHOWN: Final = 5


def print_copy(report: CopyReport, console: Console) -> None:
    """Prints what became of the keys, and how to go on."""
    tally = report.tally
    rows: list[tuple[str, str | Text]] = [("from", report.source), ("to", report.destination)]
    for outcome, word in _WORDS.items():
        count = tally.keys[outcome]
        if not count and outcome is not Outcome.COPIED:
            continue
        name = "to copy" if report.dry_run and outcome is Outcome.COPIED else word
        text = f"{_count(count, 'chunk')}, {size(tally.nbytes[outcome])}{_more(report, outcome)}"
        rows.append((name, Text(text, BAD) if outcome in _BAD else text))
        examples = tally.examples[outcome]
        rows += [("", f"{escaped(example.key)}: {escaped(example.why)}") for example in examples[:_SHOWN]]
        if count > len(examples[:_SHOWN]) and examples:
            rows.append(("", f"and {count - _SHOWN} more; --json names them"))
    if tally.uncompared:
        rows.append(("not compared", f"{_count(tally.uncompared, 'chunk')}: it would take their payloads"))
    if tally.ttls_lost:
        rows.append(("no TTL", f"{_count(tally.ttls_lost, 'chunk')} will stay, and not expire as at the source"))
    if report.left_out:
        rows.append(("left out", f"{_count(report.left_out, 'name')} that no key of this toolkit has"))
    if not report.dry_run:
        rate = tally.nbytes[Outcome.COPIED] / report.seconds if report.seconds else 0.0
        rows.append(("time", f"{span(report.seconds)}, {rate / 1e6:.0f} MB/s"))
    if report.error is not None:
        rows.append(("error", Text(escaped(str(report.error)), BAD)))
    rows.append(("result", _result(report)))
    console.print(grid(rows))


def _more(report: CopyReport, outcome: Outcome) -> str:
    tally = report.tally
    if outcome is Outcome.COPIED and tally.replaced:
        return f"; {tally.replaced} in place of other content"
    if outcome is Outcome.SKIPPED and tally.by_state:
        return f"; {tally.by_state} known by the state file"
    if outcome is Outcome.DIFFERS:
        return "; --overwrite replaces what is there"
    return ""


def _result(report: CopyReport) -> Text:
    tally = report.tally
    if not report.is_complete:
        return Text("not complete: run the same command again to go on; what is the same there is skipped", BAD)
    if not tally.is_clean:
        return Text("some chunks of the source are not at the destination", BAD)
    if report.dry_run:
        return Text("nothing was copied (--dry-run)")
    verified = f", {tally.verified} read back and verified" if tally.verified else ""
    return Text(f"every chunk of the source is at the destination{verified}", GOOD)


def print_file(report: FileReport, console: Console) -> None:
    """Prints a line about a chunk that went into a file, or came from one."""
    shapes = ", ".join(
        f"{'×'.join(map(str, shape))} {dtype.name}"
        for shape, dtype in zip(report.metadata.shapes, report.metadata.dtypes, strict=True)
    )
    console.print(f"{escaped(report.key)}: {report.nbytes} bytes, {shapes}, xxh3 {report.xxh3:016x}", soft_wrap=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
