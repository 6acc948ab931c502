"""What all query parameters share: frozen models, changed parameters, and the error for ineffective ones."""

import pytest
from pydantic import ValidationError

from percept.api.params import reject_inapplicable
from percept.api.predict_params import PredictParams
from percept.errors import BadParameter


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
