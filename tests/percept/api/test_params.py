"""A parameter that does nothing where it is given is an error, not a silence."""

import httpx
import pytest

from percept.api import cam_params
from percept.api.routes import features, predict
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((60, 40), (20, 20), 9, (255, 80, 0)))
CAM, FEATURES = "/cam?model=classification-squeeze", "/features?model=classification-squeeze&layer=colour"
SEGMENTER = "/predict?model=segmentation-squeeze"

# For each parameter of a table where it does nothing, and where it does something.
IDLE = {
    f"{CAM}&alpha=0.5": ("&view=heatmap", "&format=npy", "&format=json"),
    f"{CAM}&colormap=jet": ("&format=npy", "&format=json"),
    f"{CAM}&legend=true": ("&format=npy", "&format=json"),
    f"{CAM}&field=true": ("&format=npy",),
    f"{CAM}&size=photo": ("", "&format=json", "&view=sheet&by=classes"),
    f"{CAM}&scale=unit": ("", "&format=json"),
    f"{CAM}&boxes=0.5": ("", "&format=npy"),
    f"{CAM}&method=eigencam": ("&view=sheet&by=methods",),
    f"{CAM}&top=2": ("&target=red",),
    f"{FEATURES}&channels=2": ("", "&view=components", "&format=npy"),
    f"{FEATURES}&colormap=jet": ("", "&view=components", "&view=field&x=9&y=9"),
    f"{SEGMENTER}&alpha=0.5": ("", "&view=mask"),
    f"{SEGMENTER}&top_k=2": ("", "&view=overlay"),
}
BUSY = {
    f"{CAM}&alpha=0.5": ("", "&view=sheet&by=classes", "&format=zip"),
    f"{CAM}&colormap=jet": ("", "&view=heatmap", "&format=multipart"),
    f"{CAM}&legend=true": ("", "&view=heatmap", "&view=sheet&by=classes", "&top=2"),
    f"{CAM}&field=true": ("", "&format=json", "&view=heatmap&format=zip"),
    f"{CAM}&size=photo": ("&format=npy", "&format=zip", "&view=sheet&by=classes&format=zip"),
    f"{CAM}&scale=unit": ("&format=npy", "&format=multipart"),
    f"{CAM}&boxes=0.5": ("&format=json", "&format=zip"),
    f"{CAM}&method=eigencam": ("", "&view=sheet&by=layers"),
    f"{CAM}&top=2": ("", "&view=sheet&by=layers"),
    f"{FEATURES}&channels=2": ("&view=grid",),
    f"{FEATURES}&colormap=jet": ("&view=grid", "&view=channel&channel=0"),
    f"{SEGMENTER}&alpha=0.5": ("&view=overlay",),
    "/predict?model=classification-squeeze&top_k=2": ("",),
}


@pytest.mark.parametrize("url", [given + where for given, places in IDLE.items() for where in places])
def test_what_does_nothing_is_said_with_its_name(client: httpx.Client, url: str) -> None:
    answer = client.post(url, content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    name = next(given for given in IDLE if url.startswith(given)).rsplit("&", 1)[1].split("=")[0]
    assert name in answer.json()["detail"]


@pytest.mark.parametrize("url", [given + where for given, places in BUSY.items() for where in places])
def test_what_does_something_is_welcome_and_changes_the_answer(client: httpx.Client, url: str) -> None:
    answer = client.post(url, content=DATA)
    assert answer.status_code == 200, answer.text
    given = next(given for given in BUSY if url.startswith(given))
    without = client.post(url.replace(given, given.rsplit("&", 1)[0]), content=DATA)
    if "field=true&format=json" not in url:  # where it is always there
        assert answer.content != without.content


@pytest.mark.parametrize("module", [cam_params, features, predict])
def test_every_row_is_proven(module) -> None:
    prefix = {cam_params: "/cam", features: "/features", predict: "/predict"}[module]
    proven = {given.rsplit("&", 1)[1].split("=")[0] for given in IDLE if given.startswith(prefix)}
    assert set(module.RULES) <= proven


def test_what_is_told_is_where_it_would_do_something(client: httpx.Client) -> None:
    detail = client.post(f"{CAM}&alpha=0.5&view=heatmap", content=DATA).json()["detail"]
    assert detail == "alpha is for view=overlay|sheet, not for view=heatmap: it would do nothing here"
    detail = client.post(f"{FEATURES}&channels=2", content=DATA).json()["detail"]
    assert detail == "channels is for view=grid: it would do nothing here"


@pytest.mark.parametrize("path", ["/cam", "/features", "/predict"])
def test_a_form_may_send_every_default(client: httpx.Client, path: str) -> None:
    """As that of `/docs` does."""
    parameters = client.get("/openapi.json").json()["paths"][path]["post"]["parameters"]
    defaults = {one["name"]: one["schema"]["default"] for one in parameters if "default" in one["schema"]}
    assert defaults
    for more in ({}, {"layer": "colour"} if path != "/predict" else {}, {"format": "json"}):
        answer = client.post(path, params={"model": "segmentation-squeeze", **defaults, **more}, content=DATA)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("query", ["view=grid", "pool=avg", "format=npy", "x=1&y=2", "channel=0", "channels=3"])
def test_what_is_about_a_layer_needs_one(client: httpx.Client, query: str) -> None:
    answer = client.post(f"/features?model=classification-squeeze&{query}", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert "name a layer, of colour" in answer.json()["detail"]
