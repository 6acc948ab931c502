"""The parameters of `/cam`: the question and the output that they mean, and which would have no effect."""

import httpx
import pytest
from pydantic import ValidationError

from percept.api.cam_params import FORMATS, RULES, CamParams
from percept.errors import BadParameter
from percept.explain.question import Question
from tests.percept.api.rules import DATA, check_applicable, check_defaults, check_inapplicable, combine, parameters

URL = "/cam?model=classification-squeeze"

# `method` and `top` have rules of their own, in `CamParams.question`.
INAPPLICABLE = {
    f"{URL}&alpha=0.5": ("&view=heatmap", "&format=npy", "&format=json"),
    f"{URL}&colormap=jet": ("&format=npy", "&format=json"),
    f"{URL}&legend=true": ("&format=npy", "&format=json"),
    f"{URL}&field=true": ("&format=npy",),
    f"{URL}&size=photo": ("", "&format=json", "&view=sheet&by=classes"),
    f"{URL}&scale=unit": ("", "&format=json"),
    f"{URL}&boxes=0.5": ("", "&format=npy"),
    f"{URL}&method=eigencam": ("&view=sheet&by=methods",),
    f"{URL}&top=2": ("&target=red",),
}
APPLICABLE = {
    f"{URL}&alpha=0.5": ("", "&view=sheet&by=classes", "&format=zip"),
    f"{URL}&colormap=jet": ("", "&view=heatmap", "&format=multipart"),
    f"{URL}&legend=true": ("", "&view=heatmap", "&view=sheet&by=classes", "&top=2"),
    f"{URL}&field=true": ("", "&view=heatmap&format=zip"),
    f"{URL}&size=photo": ("&format=npy", "&format=zip", "&view=sheet&by=classes&format=zip"),
    f"{URL}&scale=unit": ("&format=npy", "&format=multipart"),
    f"{URL}&boxes=0.5": ("&format=json", "&format=zip"),
    f"{URL}&method=eigencam": ("", "&view=sheet&by=layers"),
    f"{URL}&top=2": ("", "&view=sheet&by=layers"),
}


@pytest.mark.parametrize(("url", "query"), combine(INAPPLICABLE))
def test_ineffective_parameter_is_an_error(client: httpx.Client, url: str, query: str) -> None:
    check_inapplicable(client, url, query)


@pytest.mark.parametrize(("url", "query"), combine(APPLICABLE))
def test_effective_parameter_changes_the_response(client: httpx.Client, url: str, query: str) -> None:
    check_applicable(client, url, query)


def test_field_is_accepted_with_json(client: httpx.Client) -> None:
    """JSON has the receptive field in any case."""
    assert client.post(f"{URL}&field=true&format=json", content=DATA).status_code == 200


def test_every_rule_has_a_case() -> None:
    assert {*RULES, "method", "top"} == parameters(INAPPLICABLE) == parameters(APPLICABLE)


@pytest.mark.parametrize("name", RULES)
def test_every_condition_of_a_rule_has_a_case(name: str) -> None:
    """For each condition of a row, one case violates it."""
    queries = [query for url, queries in INAPPLICABLE.items() if f"&{name}=" in url for query in queries]
    for condition in RULES[name]:
        if condition == "view":
            assert any("view=" in query for query in queries)
        else:
            assert any("view=" not in query for query in queries)


def test_error_states_where_the_parameter_has_an_effect(client: httpx.Client) -> None:
    detail = client.post(f"{URL}&alpha=0.5&view=heatmap", content=DATA).json()["detail"]
    assert detail == "alpha is for view=overlay|sheet, not for view=heatmap: it would have no effect here"


def test_form_may_send_every_default(client: httpx.Client) -> None:
    check_defaults(client, "/cam", [{}, {"layer": "colour"}, {"format": "json"}])


@pytest.mark.parametrize("view", FORMATS)
def test_view_has_its_formats_and_no_others(view) -> None:
    for format in ("jpeg", "png", "webp", "npy", "json", "multipart", "zip"):
        params = CamParams(view=view, format=format)
        if format in FORMATS[view]:
            assert params.output(None).format == format
        else:
            with pytest.raises(BadParameter):
                params.output(None)


def test_question_has_every_parameter() -> None:
    params = CamParams.model_validate(
        {
            "method": "gradcam  ",
            "target": ["a", "b"],
            "against": "c",
            "layer": ["x+y", "v w", "z"],
            "region": "1,2,3.5,4",
            "faithfulness": "true",
            "field": "effective",
        }
    )
    assert params.question() == Question(
        methods=("gradcam++",),
        layers=("x+y", "v w", "z"),
        targets=("a", "b"),
        against="c",
        place=(1, 2, 3.5, 4),
        faithfulness=True,
        effective=True,
    )


def test_point_is_a_region_without_extent() -> None:
    assert CamParams(x=3, y=0).question().place == (3, 0, 3, 0)


@pytest.mark.parametrize(
    "params",
    [
        {"x": 1},
        {"y": 1},
        {"x": 1, "y": 1, "region": "0,0,1,1"},
        {"x": 1, "region": "0,0,1,1"},
        {"region": "5,5,1,9"},
        {"region": "1,5,5,5"},
        {"view": "sheet"},
        {"by": "methods"},
        {"view": "sheet", "by": "methods", "method": "rise"},
        {"target": ["a"], "top": 2},
    ],
)
def test_contradicting_parameters_are_an_error(params) -> None:
    with pytest.raises(BadParameter):
        CamParams(**params).question()


def test_parameters_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CamParams().top = 3  # type: ignore[misc]
