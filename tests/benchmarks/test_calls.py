"""The benchmark of calls notices wrong data, names the clients that it left out, and reports ratios right."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.calls.__main__ import command, main
from benchmarks.calls.case import BATCHES, PARTS, Case, cases
from benchmarks.calls.clients import OURS
from benchmarks.calls.comparison import Comparison, sides_of
from benchmarks.calls.plots import draw
from benchmarks.calls.report import markdown, tables
from benchmarks.calls.results import BASE, Result
from benchmarks.calls.side import ROOT, Side, SideEndedError
from benchmarks.calls.work import WORK, WrongDataError
from benchmarks.calls.work.busy import Busy
from lmcache_connect.testing import ValkeyServer

KIB = 1 << 10
GET = Case("together", "get", 4 * KIB, 8, 1.0)


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


def quiet(_: str) -> None:
    """A log for nobody."""


def together(**us: list[float]) -> Result:
    """A result with the times of each round."""
    result = Result(GET)
    for name, values in us.items():
        for value in values:
            result.note(name.replace("_", "-"), {"us": value, "cpu us": value / 2})
    return result


def report_of(*results: Result, left_out: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "date": "2026-01-01T00:00:00+00:00",
        "version": "0",
        "python": "3",
        "machine": "a machine",
        "event_loop": "asyncio",
        "stores": ["valkey"],
        "rounds": 3,
        "command": "make bench-calls",
        "left_out": left_out or {},
        "results": [result.document() for result in results],
    }


# ---------------------------------------------------------------------------------------------------- what is measured


def test_every_row_of_the_bars_is_a_case() -> None:
    told = {(case.part, case.operation, case.nbytes >> 10, case.calls, case.store, case.bar) for case in cases(PARTS)}
    small = (("exists", 0), ("get", 4), ("get", 64))
    batches = [(size >> 10, chunks) for size, chunks in BATCHES.items()]
    assert told == {
        *(("together", name, kib, calls, "redis", 1.0) for name, kib in small for calls in (100, 1000)),
        *(
            ("one-batch", name, kib, chunks, store, 0.85)
            for name in ("get", "put")
            for kib, chunks in batches
            for store in ("redis", "s3")
        ),
        *(
            ("memory", name, kib, chunks, store, bar)
            for name, bar in (("get", 1.0), ("put", 0.95))
            for kib, chunks in batches
            for store in ("redis", "s3")
        ),
        *(
            ("memory", name, 1024, 128, store, 0.6) for name in ("get", "put") for store in ("redis", "s3")
        ),  # 128 regions
        *(("one", name, kib, 1, "redis", 0.9) for name, kib in (("exists", 0), ("get", 64), ("put", 64))),
        *(
            ("threads", name, kib, threads, "redis", bar)
            for name, kib in (("exists", 0), ("get", 64))
            for threads, bar in ((1, 2.5), (16, 1.0))
        ),
        ("busy", "exists", 0, 1, "redis", 3.0),
    }
    assert [kib for kib, _ in batches] == [128, 1024, 4096, 32768]


def test_parts_and_stores_can_be_selected() -> None:
    assert {case.part for case in cases(["one", "busy"])} == {"one", "busy"}
    assert {case.store for case in cases(["one-batch"], ["s3"])} == {"s3"}
    assert {case.part for case in cases(["one", "one-batch"], ["s3"])} == {"one", "one-batch"}


def test_each_part_has_the_clients_of_its_bar() -> None:
    others = {part: sides_of(next(iter(cases([part]))), None, base=False)[1:] for part in PARTS}
    assert others == {
        "together": ["valkey-glide", "2 × valkey-glide", "coredis", "redis-py, pool of 50"],
        "one-batch": [],
        "memory": [],
        "one": ["redis-py"],
        "threads": ["redis-py"],
        "busy": [],
    }
    assert sides_of(GET, ["coredis"], base=True) == [OURS, BASE, "coredis"]
    assert sides_of(GET, [], base=False) == [OURS]
    assert sides_of(next(iter(cases(["memory"]))), None, base=True) == [OURS]


@pytest.mark.parametrize("client", [OURS, "redis-py"])
@pytest.mark.parametrize(
    "case",
    [
        Case("together", "exists", 0, 8, 1.0),
        GET,
        Case("one", "exists", 0, 1, 1.0),
        Case("one", "get", 64 * KIB, 1, 1.0),
        Case("one", "put", 64 * KIB, 1, 1.0),
        Case("threads", "exists", 0, 1, 1.0),
        Case("threads", "get", 64 * KIB, 4, 1.0),
    ],
    ids=lambda case: f"{case.part}-{case.operation}",
)
def test_a_round_gives_times_and_leaves_no_chunk_behind(case: Case, client: str, server: ValkeyServer) -> None:
    async def measure() -> dict[str, float]:
        work = WORK[case.part](case, client, server.url())
        async with work.stack:  # the arena's end complains about a chunk that is left
            await work.open()
            await work.round(1)
            return await work.round(2)

    figures = asyncio.run(measure())
    assert {"cpu us", "us"} <= figures.keys()
    assert all(value > 0 for value in figures.values())


@pytest.mark.parametrize("operation", ["get", "put"])
def test_a_round_of_one_batch_gives_the_rates_of_both_ways_and_their_ratio(
    operation: str, server: ValkeyServer
) -> None:
    async def measure() -> list[dict[str, float]]:
        work = WORK["one-batch"](Case("one-batch", operation, 128 * KIB, 4, 0.85), OURS, server.url())
        async with work.stack:
            await work.open()
            return [await work.round(number) for number in range(2)]

    for figures in asyncio.run(measure()):
        assert figures["ratio"] == figures["alone GB/s"] / figures["batch GB/s"]


@pytest.mark.parametrize("operation", ["get", "put"])
def test_a_round_in_memory_of_the_caller_gives_the_rates_of_both_ways_and_their_ratio(
    operation: str, server: ValkeyServer
) -> None:
    async def measure() -> list[dict[str, float]]:
        case = Case("memory", operation, 128 * KIB, 4, 1.0, regions=128)
        work = WORK["memory"](case, OURS, server.url())
        async with work.stack:
            await work.open()
            return [await work.round(number) for number in range(2)]

    for figures in asyncio.run(measure()):
        assert figures["ratio"] == figures["caller GB/s"] / figures["batch GB/s"]


def test_a_round_beside_streams_gives_percentiles_and_the_rate_of_the_streams(server: ValkeyServer) -> None:
    class Short(Busy):
        seconds = 0.1

    async def measure() -> dict[str, float]:
        work = Short(Case("busy", "exists", 0, 1, 3.0), OURS, server.url())
        async with work.stack:
            await work.open()
            return await work.round(1)

    figures = asyncio.run(measure())
    assert figures["longest us"] >= figures["us"] >= figures["p50 us"] > 0
    assert figures["GB/s"] > 0


# ---------------------------------------------------------------------------------------------------- what is checked


@pytest.mark.parametrize(
    ("case", "client"),
    [
        (GET, "redis-py, pool of 50"),
        (Case("one", "get", 64 * KIB, 1, 1.0), "redis-py"),
        (Case("threads", "get", 64 * KIB, 2, 1.0), "redis-py"),
    ],
    ids=["together", "one", "threads"],
)
@pytest.mark.parametrize("damage", ["another", "missing"])
def test_a_value_that_is_not_what_was_put_ends_the_benchmark(
    case: Case, client: str, damage: str, server: ValkeyServer
) -> None:
    async def measure() -> None:
        work = WORK[case.part](case, client, server.url())
        async with work.stack:
            await work.open()
            with server.client() as store:
                key = next(iter(store.scan_iter(f"{'thread' if case.part == 'threads' else case.part}*")))
                if damage == "missing":
                    store.delete(key)
                else:
                    store.setrange(key, 1000, b"another")
            await work.round(1)

    server.flush()
    with pytest.raises(WrongDataError):
        asyncio.run(measure())


@pytest.mark.parametrize("client", [OURS, "redis-py, pool of 50"])
def test_a_look_up_that_finds_another_key_ends_the_benchmark(client: str, server: ValkeyServer) -> None:
    async def measure() -> None:
        work = WORK["together"](Case("together", "exists", 0, 8, 1.0), client, server.url())
        async with work.stack:
            await work.open()
            server.flush()
            await work.round(1)

    with pytest.raises(WrongDataError, match="look-up 0"):
        asyncio.run(measure())


# ---------------------------------------------------------------------------------------------------- sides


def test_a_client_that_is_not_installed_is_named_and_left_out(
    server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("glide", "coredis"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    comparison = Comparison(log=quiet, only=["glide", "coredis"])
    try:
        result = comparison.run(GET, lambda number: server.url(db=number), rounds=2)
    finally:
        comparison.close()
    assert set(comparison.left_out) == {"valkey-glide", "2 × valkey-glide", "coredis"}
    assert "make bench-setup" in comparison.left_out["coredis"]
    assert set(result.figures) == {OURS}
    assert {len(values) for values in result.figures[OURS].values()} == {2}  # the first round does not count


def test_a_base_checkout_is_measured_with_its_own_toolkit_and_without_what_other_clients_bring(
    server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sniffio.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    base = tmp_path / "base"
    base.mkdir()
    for name in ("adapters", "reference_connectors"):
        (base / name).symlink_to(ROOT / name)
    toolkit = base / "lmcache_connect"
    toolkit.mkdir()
    (toolkit / "__init__.py").write_text(
        "import sys\ntry:\n    import sniffio\nexcept ImportError:\n    sys.exit('the base, without sniffio')\n"
    )
    side = Side(BASE, OURS, base)
    try:
        with pytest.raises(SideEndedError, match="base"):
            side.open(GET, server.url())
    finally:
        side.end()
    assert "the base, without sniffio" in capfd.readouterr().err


def test_a_process_that_ends_names_its_side() -> None:
    side = Side("nobody", "no such client")
    try:
        with pytest.raises(SideEndedError, match="nobody"):
            side.open(GET, "redis://127.0.0.1:1")
    finally:
        side.end()


# ---------------------------------------------------------------------------------------------------- what is reported


def test_the_ratio_is_against_the_fastest_client_round_by_round() -> None:
    result = together(ours=[10, 30, 20], coredis=[50, 50, 50], valkey_glide=[20, 20, 40])
    assert result.rival() == "valkey-glide"
    assert result.ratios() == [0.5, 1.5, 0.5]
    assert result.ratio_of_best() == 0.5
    assert result.reached() is True
    assert together(ours=[30, 30, 30], valkey_glide=[20, 20, 20]).reached() is False


def test_a_client_that_the_bar_does_not_name_is_told_and_not_a_rival() -> None:
    result = Result(GET)
    for name, us in ((OURS, 10.0), ("2 × valkey-glide", 5.0), ("coredis", 20.0)):
        result.note(name, {"us": us, "cpu us": us})
    assert result.rival() == "coredis"
    assert "2 × valkey-glide" in tables(report_of(result))[0][1]


def test_cpu_time_is_compared_with_the_client_that_takes_least_of_it() -> None:
    result = Result(GET)
    for name, us, cpu in ((OURS, 10.0, 10.0), ("valkey-glide", 5.0, 20.0), ("coredis", 50.0, 5.0)):
        result.note(name, {"us": us, "cpu us": cpu})
    assert (result.rival(), result.ratios()) == ("valkey-glide", [2.0])
    assert (result.rival("cpu us"), result.ratios(name="cpu us")) == ("coredis", [2.0])
    assert result.document()["cpu_ratio"][OURS]["median"] == 2.0


def test_without_another_client_there_is_no_ratio() -> None:
    result = together(ours=[10])
    assert (result.rival(), result.ratios(), result.ratio_of_best(), result.reached()) == (None, [], None, None)
    assert "ratio" in result.document()


def test_single_calls_reach_their_bar_by_their_rate_against_the_batch() -> None:
    result = Result(Case("one-batch", "get", 1 << 20, 4, 0.85))
    for alone, batch in ((0.9, 1.0), (0.8, 1.0), (1.8, 2.0)):
        result.note(OURS, {"alone GB/s": alone, "batch GB/s": batch, "ratio": alone / batch})
    assert result.reached() is True
    assert result.ratio_of_best() == 0.9
    result.note(OURS, {"alone GB/s": 0.1, "batch GB/s": 1.0, "ratio": 0.1})
    result.note(OURS, {"alone GB/s": 0.1, "batch GB/s": 1.0, "ratio": 0.1})
    assert result.reached() is False


def test_a_look_up_beside_streams_is_compared_with_the_base() -> None:
    result = Result(Case("busy", "exists", 0, 1, 3.0))
    result.note(OURS, {"us": 500.0, "p50 us": 1.0, "longest us": 900.0, "GB/s": 2.0})
    assert result.reached() is None
    result.note(BASE, {"us": 100.0, "p50 us": 1.0, "longest us": 900.0, "GB/s": 2.0})
    assert result.reached() is False


def test_the_page_has_a_row_for_each_case_with_medians_best_rounds_and_the_verdict() -> None:
    result = together(ours=[10, 30, 20], valkey_glide=[20, 20, 40])
    page = markdown(report_of(result, left_out={"coredis": "coredis is not installed"}))
    assert "| 8 × get 4 KiB | 20 (10) | 20 (20) | 0.50 × (0.50) | 1 × | yes |" in page
    assert "| 8 × get 4 KiB | 10 (5) | 10 (10) | 0.50 × |" in page  # of CPU
    assert "* left out: coredis: coredis is not installed" in page


def test_the_page_says_what_a_concurrent_call_consists_of() -> None:
    result = Result(GET)
    result.note(OURS, {"us": 60.0, "cpu us": 50.0, "waiting cpu us": 6.0, "batch cpu us": 20.0})
    result.note("coredis", {"us": 90.0, "cpu us": 90.0})
    page = markdown(report_of(result))
    assert "| 8 × get 4 KiB | 50 | 6 | 20 | 24 | 90 |" in page


def test_a_round_of_concurrent_calls_measures_what_each_costs_at_least(server: ValkeyServer) -> None:
    async def measured() -> dict[str, float]:
        work = WORK["together"](GET, OURS, server.url())
        async with work.stack:
            await work.open()
            return await work.round(1)

    figures = asyncio.run(measured())
    assert 0 < figures["waiting cpu us"] < figures["cpu us"]
    assert figures["batch cpu us"] > 0


def busy_of() -> Result:
    busy = Result(Case("busy", "exists", 0, 1, 3.0))
    for side in (OURS, BASE):
        busy.note(side, {"us": 500.0, "p50 us": 1.0, "longest us": 900.0, "GB/s": 2.0})
    return busy


def batch_of() -> Result:
    batch = Result(Case("one-batch", "put", 1 << 20, 4, 0.85))
    for side in (OURS, BASE):
        rates = {"alone GB/s": 1.0, "batch GB/s": 1.0, "alone CPU s/GB": 1.0, "batch CPU s/GB": 1.0}
        batch.note(side, {**rates, "ratio": 1.0})
    return batch


def memory_of() -> Result:
    memory = Result(Case("memory", "get", 1 << 20, 4, 1.0, regions=128))
    rates = {"caller GB/s": 1.1, "batch GB/s": 1.0, "caller CPU s/GB": 1.0, "batch CPU s/GB": 1.0}
    memory.note(OURS, {**rates, "ratio": 1.1})
    return memory


def one_of() -> Result:
    one = Result(Case("one", "get", 64 * KIB, 1, 0.9))
    one.note(OURS, {"us": 100.0, "cpu us": 90.0})
    return one


def test_every_table_has_as_many_cells_in_a_row_as_in_its_head() -> None:
    made = tables(report_of(together(ours=[1], base=[1], coredis=[1]), batch_of(), memory_of(), busy_of(), one_of()))
    assert len(made) == 7
    for _, heads, rows in made:
        assert {len(row) for row in rows} == {len(heads)}


def test_the_command_that_is_told_names_no_folder_of_this_machine() -> None:
    given = ["one", "--output", "/somewhere/else", "--base", "/somewhere/before", "--match", "get 64"]
    assert command(given) == "make bench-calls ARGS=\"one --base before --match 'get 64'\""
    assert command(["--output=/x", "--base=/y/before"]) == 'make bench-calls ARGS="--base before"'
    assert command([]) == "make bench-calls"


def test_a_run_writes_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one", "--match", "exists", "--rounds", "1", "--base", str(ROOT), "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "calls.json").read_text())
    [result] = report["results"]
    assert list(result["sides"]) == [OURS, BASE, "redis-py"]
    assert result["rival"] == "redis-py"
    assert str(tmp_path) not in (tmp_path / "calls.md").read_text()
    assert re.search(r"\| exists \| [\d.,]+ \(", (tmp_path / "calls.md").read_text())
    assert "One call after the other" in capsys.readouterr().out


def test_a_report_of_every_part_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = report_of(together(ours=[1], base=[1], coredis=[1]), batch_of(), busy_of(), one_of())
    drawn = [path.name for path in draw(report, tmp_path) if path.suffix == ".png"]
    assert drawn == ["calls_together.png", "calls_one_batch.png", "calls_one_and_threads.png", "calls_busy.png"]


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["togehter"])
    assert "unknown part: togehter; expected together, one-batch, memory, one, threads, busy" in capsys.readouterr().err
