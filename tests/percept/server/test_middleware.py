"""Every answer says where its time went."""

import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from percept.server.app import create_app
from percept.settings import Settings
from percept.telemetry.context import STAGES
from tests.photos import encoded, marked

PHOTO = encoded(marked((640, 480), (200, 200), 60), "JPEG")


def timings(answer: Any) -> dict[str, float]:
    """`Server-Timing` in milliseconds."""
    parts = (part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    return {name: float(value) for name, value in parts}


@pytest.mark.parametrize(
    ("url", "stages"),
    [
        ("/predict?model=classification-squeeze", {"receive", "queue", "decode", "prepare", "infer", "render"}),
        ("/predict?model=segmentation-pad&view=overlay", {"receive", "queue", "decode", "prepare", "infer", "render"}),
        (
            "/cam?model=classification-squeeze",
            {"receive", "queue", "decode", "prepare", "infer", "tail", "render"},
        ),
        (
            "/features?model=classification-squeeze&layer=colour&view=grid",
            {"receive", "queue", "decode", "prepare", "infer", "render"},
        ),
    ],
)
def test_an_answer_says_where_its_time_went(client: Any, url: str, stages: set[str]) -> None:
    found = timings(client.post(url, content=PHOTO))
    assert found.keys() == stages | {"total"}
    assert list(found) == [name for name in STAGES if name in stages] + ["total"]
    assert all(value >= 0 for value in found.values())
    assert found["decode"] > 0
    assert found["total"] >= found["decode"] + found["infer"]


@pytest.mark.parametrize(
    ("method", "url"), [("GET", "/health/live"), ("GET", "/nowhere"), ("POST", "/predict?model=none"), ("GET", "/docs")]
)
def test_every_answer_is_timed(client: Any, method: str, url: str) -> None:
    assert "total" in timings(client.request(method, url))


def test_a_fault_of_ours_is_timed_and_a_problem(bundles: Path) -> None:
    app = create_app(Settings(models=bundles, device="cpu"))

    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    app.state.percept.pipeline.predict = broken
    with TestClient(app, raise_server_exceptions=False) as client:
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.05)
        answer = client.post("/predict?model=classification-squeeze", content=PHOTO)
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert "total" in timings(answer)
