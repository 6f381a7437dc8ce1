"""The simulation of placement counts keys right, and reports what it has counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.placement.__main__ import main
from benchmarks.placement.simulation import Placed, cluster, key_names, ring

NAMES = key_names(5000)


@pytest.mark.parametrize("place", [ring, cluster])
def test_shares_and_moved_keys_are_those_of_a_fair_placement(place: object) -> None:
    assert callable(place)
    placed: Placed = place(4, NAMES)
    assert placed.keys == 5000
    assert 0.8 < placed.fewest <= 1.0 <= placed.most < 1.2
    assert placed.ideal == pytest.approx(0.2)
    assert placed.moved == pytest.approx(0.2, abs=0.04)
    assert placed.moved_elsewhere == 0
    assert min(placed.batch_us, placed.single_us, placed.prepared_ms) > 0


def test_one_server_has_every_key() -> None:
    placed = ring(1, NAMES[:100])
    assert (placed.fewest, placed.most, placed.deviation) == (1.0, 1.0, 0.0)


def test_the_page_and_the_numbers_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--keys", "500", "--rings", "2", "--clusters", "3", "--output", str(tmp_path)])
    rows = json.loads((tmp_path / "placement.json").read_text())
    assert [(row["kind"], row["servers"], row["keys"]) for row in rows] == [("ring", 2, 500), ("cluster", 3, 500)]
    page = (tmp_path / "placement.md").read_text()
    assert "## Ring" in page
    assert "## Cluster" in page
    assert capsys.readouterr().out == page
