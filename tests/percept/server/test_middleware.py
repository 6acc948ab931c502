"""Every response has a request id and its timings, and clients cannot choose harmful ids."""

import re
import time
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from percept.server.app import create_app
from percept.server.middleware import identify
from percept.settings import Settings
from percept.telemetry.context import STAGES
from tests.photos import draw_marker, encode_photo

PHOTO = encode_photo(draw_marker((640, 480), (200, 200), 60), "JPEG")
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def parse_timing(header: str) -> dict[str, float]:
    """Return the milliseconds by stage of a header `Server-Timing`."""
    parts = (part.split(";dur=") for part in header.split(", "))
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
def test_server_timing_has_every_stage_in_order(client: httpx.Client, url: str, stages: set[str]) -> None:
    timing = parse_timing(client.post(url, content=PHOTO).headers["server-timing"])
    assert timing.keys() == stages | {"total"}
    assert list(timing) == [name for name in STAGES if name in stages] + ["total"]
    assert all(value >= 0 for value in timing.values())
    assert timing["decode"] > 0
    assert timing["total"] >= timing["decode"] + timing["infer"]


@pytest.mark.parametrize(
    ("method", "url"), [("GET", "/health/live"), ("GET", "/nowhere"), ("POST", "/predict?model=none"), ("GET", "/docs")]
)
def test_every_response_is_timed(client: httpx.Client, method: str, url: str) -> None:
    assert "total" in parse_timing(client.request(method, url).headers["server-timing"])


def test_internal_error_is_timed_and_a_problem(bundles: Path) -> None:
    app = create_app(Settings(models=bundles, device="cpu"))

    async def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    app.state.percept.pipeline.predict = fail
    with TestClient(app, raise_server_exceptions=False) as client:
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.05)
        response = client.post("/predict?model=classification-squeeze", content=PHOTO)
    assert response.status_code == 500
    assert response.json()["code"] == "internal_error"
    assert "total" in parse_timing(response.headers["server-timing"])


def identify_headers(**headers: str) -> tuple[str, str]:
    return identify([(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()])


@pytest.mark.parametrize("id", ["a", "order-17_b.3", "0" * 128])
def test_request_id_of_the_client_is_used(id: str) -> None:
    assert identify_headers(x_request_id=id)[0] == id


@pytest.mark.parametrize("id", ["", "0" * 129, "a b", "a\nb", "a\r\nSet-Cookie: b", "ä", "a/b", "<b>", "{}", "a:b"])
def test_malformed_request_id_is_replaced(id: str) -> None:
    assert re.fullmatch("[0-9a-f]{16}", identify_headers(x_request_id=id)[0])


def test_two_request_ids_are_replaced() -> None:
    id, _ = identify([(b"x-request-id", b"one"), (b"x-request-id", b"two")])
    assert id not in ("one", "two")


def test_generated_request_ids_are_unique() -> None:
    assert len({identify_headers()[0] for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "traceparent",
    [
        f"00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-00",
        f"00-{TRACE}-{PARENT}-ff",
        f"01-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01-a-field-of-a-later-version",
    ],
)
def test_trace_id_is_read_from_traceparent(traceparent: str) -> None:
    assert identify_headers(traceparent=traceparent)[1] == TRACE


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"ff-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper()}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT[:-1]}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-0g",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01",
    ],
)
def test_malformed_traceparent_is_ignored(traceparent: str) -> None:
    assert identify_headers(traceparent=traceparent)[1] == ""


def test_two_traceparents_are_ignored() -> None:
    header = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())
    assert identify([header])[1] == TRACE
    assert identify([header, header])[1] == ""
