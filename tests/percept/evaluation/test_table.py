"""The table against statistics computed by hand."""

import json
import re
import statistics
from collections.abc import Mapping
from typing import Any

import pytest

from percept.evaluation.measurement import Measurement
from percept.evaluation.table import COLUMNS, Statistic, summarize_methods, to_json, to_markdown
from percept.explain.faithfulness import STEPS, summarize


def measurement(insertion: float, drop: float = 0.0, seconds: float | None = None, **more: Any) -> Measurement:
    flat = [0.0] * STEPS + [insertion] * STEPS
    return Measurement(summarize(1.0, [0, 0, 1 - drop, *flat]), seconds, **more)


def statistic(row: Mapping[str, Statistic | None], column: str) -> Statistic:
    found = row[column]
    assert found is not None
    return found


def test_statistics_are_means_with_errors_or_medians() -> None:
    table = summarize_methods({"a": [measurement(0, drop, s) for drop, s in ((0.1, 1.0), (0.2, 2.0), (0.6, 9.0))]})
    drop = statistic(table["a"], "average_drop")
    assert (drop.value, drop.error, drop.n) == pytest.approx((30, statistics.stdev([10, 20, 60]) / 3**0.5, 3))
    ms = statistic(table["a"], "milliseconds")
    assert (ms.value, ms.error, ms.n) == (2000, None, 3)
    assert statistic(summarize_methods({"a": [measurement(0)]})["a"], "average_drop").error is None


def test_photos_without_mask_do_not_count() -> None:
    many = [measurement(0), measurement(0, pointing=True, energy=0.5), measurement(0, pointing=False, energy=0.1)]
    row = summarize_methods({"a": many})["a"]
    pointing = statistic(row, "pointing")
    assert (pointing.value, pointing.n) == (50, 2)
    assert statistic(row, "energy").value == pytest.approx(30)


def test_table_is_aligned_and_marks_missing_values() -> None:
    table = summarize_methods({"bad": [measurement(0.1), measurement(0.3)], "good": [measurement(0.9, seconds=0.25)]})
    lines = to_markdown(table, ["bad"]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["good", "*bad*"]
    assert "pointing" not in lines[0]
    assert [cell.strip() for cell in lines[3].split("|")][-2] == "–"
    assert [cell.strip() for cell in lines[2].split("|")][-2] == "250.0"
    assert "0.225 ± 0.097" in lines[3]  # 16 points at 0.1 or 0.3, then 1: (15.5 v + 0.5) / 16
    data = to_json(table, ["bad"])
    assert [(row["method"], row["baseline"]) for row in data] == [("good", False), ("bad", True)]
    assert data[0]["pointing"] is None
    assert json.loads(json.dumps(data)) == data


def test_every_column_except_time_states_its_direction() -> None:
    assert all(re.search("[↑↓]$", column.heading) for name, column in COLUMNS.items() if name != "milliseconds")
