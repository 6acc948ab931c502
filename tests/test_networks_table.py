"""The table of networks in `docs/models.md`, and the program that makes it."""

import re
from dataclasses import replace

import pytest

from benchmarks.families import names, try_network
from benchmarks.harness.made_up_table import MADE_UP
from benchmarks.harness.references import MADE_UP_PREFIX
from benchmarks.harness.workspace import open_workspace, photo_files
from tests.pages import ROOT

TABLE = (ROOT / "docs" / "models.md").read_text()
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<outcome>[^|]*?) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def photos():
    with open_workspace(None) as workspace:
        yield photo_files(workspace)


def test_table_names_the_networks_that_were_tried() -> None:
    rows = {row["name"] for row in ROW.finditer(TABLE)}
    assert {name for name in rows if not name.startswith("file: ")} <= set(names())
    assert len(rows) >= 120


def test_every_network_of_the_table_is_exported_or_refused_rightly() -> None:
    outcomes = {row["name"]: row["outcome"] for row in ROW.finditer(TABLE)}
    assert {name: text for name, text in outcomes.items() if not re.match(r"exported$|refused: ", text)} == {}


def test_network_is_exported_with_the_scores_of_torch(photos) -> None:
    outcome = try_network(f"{MADE_UP_PREFIX}output: one sigmoid", photos)
    assert (outcome.passed, outcome.outcome) == (True, "exported")
    assert outcome.error is not None
    assert outcome.error < 1e-3


def test_network_with_other_scores_is_reported(photos, monkeypatch: pytest.MonkeyPatch) -> None:
    row = MADE_UP["output: softmax"]
    monkeypatch.setitem(MADE_UP, "output: softmax", replace(row, scores=lambda y: y.softmax(1)))
    outcome = try_network(f"{MADE_UP_PREFIX}output: softmax", photos)
    assert (outcome.passed, outcome.outcome) == (False, "WRONG SCORES")


def test_refusal_without_reason_is_reported(photos, monkeypatch: pytest.MonkeyPatch) -> None:
    row = MADE_UP["output: two outputs"]
    assert try_network(f"{MADE_UP_PREFIX}output: two outputs", photos).passed
    monkeypatch.setitem(MADE_UP, "output: two outputs", replace(row, refused=None))
    outcome = try_network(f"{MADE_UP_PREFIX}output: two outputs", photos)
    assert not outcome.passed
    assert outcome.outcome.startswith("WRONGLY REFUSED: ")
