"""The measurement by cores runs on the cores that it is given, and reports each of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.lmcache_connect_redis.cores import main


def test_each_number_of_cores_and_of_servers_is_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--cores", "1", "--servers", "1", "2", "--batches", "2x0.125", "--rounds", "1"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "redis_cores.json").read_text())
    [run] = report["runs"]
    assert run["cores"] == 1
    assert {(found["servers"], found["way"]) for found in run["results"]} == {
        (1, "store"),
        (1, "load"),
        (2, "store"),
        (2, "load"),
    }
    assert all(found["gb_per_s"] > 0 for found in run["results"])
    assert "store 2 × 0.125 MiB" in " ".join(capsys.readouterr().out.split())
