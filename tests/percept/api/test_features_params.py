"""The parameters of `/features`: what a view needs, and which parameters would have no effect."""

import httpx
import pytest
from pydantic import ValidationError

from percept.api.features_params import FORMATS, RULES, FeaturesParams
from percept.errors import BadParameter
from tests.percept.api.rules import DATA, check_applicable, check_defaults, check_inapplicable, combine, parameters
from tests.percept.tasks.manifests import create_manifest

URL = "/features?model=classification-squeeze&layer=colour"

INAPPLICABLE = {
    f"{URL}&channels=2": ("", "&view=components", "&format=npy"),
    f"{URL}&colormap=jet": ("", "&view=components", "&view=field&x=9&y=9"),
}
APPLICABLE = {
    f"{URL}&channels=2": ("&view=grid",),
    f"{URL}&colormap=jet": ("&view=grid", "&view=channel&channel=0"),
}
# The parameters that a view cannot do without.
REQUIRED = {
    None: {},
    "grid": {},
    "components": {},
    "channel": {"channel": 0},
    "field": {"x": 1, "y": 2},
    "effective": {"x": 1, "y": 2},
}


@pytest.mark.parametrize(("url", "query"), combine(INAPPLICABLE))
def test_ineffective_parameter_is_an_error(client: httpx.Client, url: str, query: str) -> None:
    check_inapplicable(client, url, query)


@pytest.mark.parametrize(("url", "query"), combine(APPLICABLE))
def test_effective_parameter_changes_the_response(client: httpx.Client, url: str, query: str) -> None:
    check_applicable(client, url, query)


def test_every_rule_has_a_case() -> None:
    assert set(RULES) == parameters(INAPPLICABLE) == parameters(APPLICABLE)


def test_error_states_where_the_parameter_has_an_effect(client: httpx.Client) -> None:
    detail = client.post(f"{URL}&channels=2", content=DATA).json()["detail"]
    assert detail == "channels is for view=grid: it would have no effect here"


def test_form_may_send_every_default(client: httpx.Client) -> None:
    check_defaults(client, "/features", [{}, {"layer": "colour"}, {"format": "json"}])


@pytest.mark.parametrize("query", ["view=grid", "pool=avg", "format=npy", "x=1&y=2", "channel=0", "channels=3"])
def test_parameter_about_a_layer_needs_the_layer(client: httpx.Client, query: str) -> None:
    response = client.post(f"/features?model=classification-squeeze&{query}", content=DATA)
    assert (response.status_code, response.json()["code"]) == (422, "bad_parameter")
    assert "needs a layer, one of colour" in response.json()["detail"]


@pytest.mark.parametrize("view", FORMATS)
def test_view_has_its_formats_and_no_others(view) -> None:
    manifest = create_manifest("classification")
    assert FORMATS.keys() == REQUIRED.keys()
    for format in ("json", "npy", "png", "jpeg", "webp"):
        params = FeaturesParams(layer="a", view=view, format=format, **REQUIRED[view])
        if format in FORMATS[view]:
            assert params.output(manifest, None).format == format
        else:
            with pytest.raises(BadParameter):
                params.output(manifest, None)


@pytest.mark.parametrize("view", [view for view, required in REQUIRED.items() if required])
def test_view_without_its_parameters_is_an_error(view) -> None:
    for missing in REQUIRED[view]:
        given = {name: value for name, value in REQUIRED[view].items() if name != missing}
        with pytest.raises(BadParameter, match="need"):
            FeaturesParams(layer="a", view=view, **given).output(create_manifest("classification"), None)


def test_parameters_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FeaturesParams().layer = "a"  # type: ignore[misc]
