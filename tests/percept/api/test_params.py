"""Parameters that all endpoints share and those of `/predict`: unknown and ineffective ones are errors."""

import httpx
import pytest
from pydantic import ValidationError

from percept.api.params import MASK_FORMATS, PREDICT_RULES, PredictParams, reject_inapplicable
from percept.errors import BadParameter
from percept.tasks.mask_picture import MaskPicture
from tests.percept.api.rules import check_applicable, check_defaults, check_inapplicable, combine, parameters
from tests.percept.tasks.manifests import create_manifest

CLASSIFIER, SEGMENTER = "/predict?model=classification-squeeze", "/predict?model=segmentation-squeeze"

INAPPLICABLE = {
    f"{SEGMENTER}&alpha=0.5": ("", "&view=mask"),
    f"{SEGMENTER}&top_k=2": ("", "&view=overlay"),
}
APPLICABLE = {
    f"{SEGMENTER}&alpha=0.5": ("&view=overlay",),
    f"{CLASSIFIER}&top_k=2": ("",),
}


@pytest.mark.parametrize(("url", "query"), combine(INAPPLICABLE))
def test_ineffective_parameter_is_an_error(client: httpx.Client, url: str, query: str) -> None:
    check_inapplicable(client, url, query)


@pytest.mark.parametrize(("url", "query"), combine(APPLICABLE))
def test_effective_parameter_changes_the_response(client: httpx.Client, url: str, query: str) -> None:
    check_applicable(client, url, query)


def test_every_rule_has_a_case() -> None:
    assert set(PREDICT_RULES) == parameters(INAPPLICABLE) == parameters(APPLICABLE)


def test_form_may_send_every_default(client: httpx.Client) -> None:
    check_defaults(client, "/predict", [{}, {"format": "json"}])


def test_error_states_where_the_parameter_has_an_effect() -> None:
    params = PredictParams(alpha=0.5)
    with pytest.raises(BadParameter) as raised:
        reject_inapplicable(params, {"alpha": {"view": ("overlay", "sheet")}}, view="mask")
    assert str(raised.value) == "alpha is for view=overlay|sheet, not for view=mask: it would have no effect here"
    with pytest.raises(BadParameter) as raised:
        reject_inapplicable(params, {"alpha": {"view": ("overlay",)}}, view=None)
    assert str(raised.value) == "alpha is for view=overlay: it would have no effect here"


def test_parameter_at_its_default_is_not_changed() -> None:
    assert PredictParams(alpha=0.6, top_k=5).changed == set()
    assert PredictParams(alpha=0.6, top_k=4).changed == {"top_k"}


def test_parameters_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PredictParams().top_k = 3  # type: ignore[misc]


@pytest.mark.parametrize("view", MASK_FORMATS)
def test_mask_has_the_formats_of_its_view(view) -> None:
    manifest = create_manifest("segmentation")
    for format in MASK_FORMATS[view]:
        picture = PredictParams(view=view, format=format).picture(manifest, None)
        assert picture == (None if format == "json" else MaskPicture(format, view or "mask", 0.6))
    for format in {"json", "jpeg", "png", "webp"} - set(MASK_FORMATS[view]):
        with pytest.raises(BadParameter):
            PredictParams(view=view, format=format).picture(manifest, None)


@pytest.mark.parametrize("view", ["mask", "overlay"])
def test_classifier_has_no_mask(view) -> None:
    with pytest.raises(BadParameter, match="its task is classification"):
        PredictParams(view=view).picture(create_manifest("classification"), None)
