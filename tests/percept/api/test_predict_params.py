"""The parameters of `/predict`: ineffective ones are errors, and each view has its formats."""

import httpx
import pytest

from percept.api.predict_params import MASK_FORMATS, PREDICT_RULES, PredictParams
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
