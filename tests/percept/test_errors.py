"""Validation errors are formatted in one line, with the path of each wrong value; wrong names get suggestions."""

import time
from collections.abc import Sequence
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from percept.errors import MAX_COMPARED_NAMES, did_you_mean, format_validation_errors


class Point(BaseModel):
    """A model with a field of each kind and a rule of its own."""

    x: int
    y: list[int] = []

    @model_validator(mode="after")
    def check(self) -> "Point":
        if self.x < 0:
            raise ValueError("x is negative")
        return self


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "x: Field required"),
        ({"x": 1, "y": [1, None]}, "y.1: Input should be a valid integer"),
        ({"y": 1}, "x: Field required; y: Input should be a valid list"),
        ({"x": -1}, "x is negative"),
    ],
)
def test_validation_errors_are_one_line(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Point.model_validate(data)
    assert format_validation_errors(raised.value) == message


class Choice(BaseModel):
    """A model without other fields, with many values of one field."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["cam", "gradcam", "gradcam++", "layercam", "scorecam"] = "cam"
    rank: Literal["low", "high"] = "low"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"methd": 1}, "methd: unknown parameter; did you mean method?"),
        ({"zzz": 1}, "zzz: unknown parameter; there are method, rank"),
        ({"method": "Grad CAM"}, "; did you mean gradcam?"),
        ({"method": "layer-cam"}, "; did you mean layercam?"),
        ({"method": "zzz"}, "'layercam' or 'scorecam'"),
        ({"rank": "hihg"}, "rank: Input should be 'low' or 'high'"),
    ],
)
def test_unknown_parameter_and_value_get_a_suggestion(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Choice.model_validate(data)
    assert format_validation_errors(raised.value, Choice.model_fields).endswith(message)


@pytest.mark.parametrize(
    ("name", "known", "suggestion"),
    [
        ("golden_retreiver", ["golden retriever", "tench"], "; did you mean golden retriever?"),
        ("CIFAR10", ["cifar10", "cifar100"], "; did you mean cifar10?"),
        ("cifar", ["cifar10", "cifar100"], "; did you mean cifar10 or cifar100?"),
        ("purple", ["red", "green"], ""),
        ("", ["red"], ""),
    ],
)
def test_similar_names_are_suggested(name: str, known: Sequence[str], suggestion: str) -> None:
    assert did_you_mean(name, known) == suggestion


def test_suggestions_take_bounded_time() -> None:
    names = [f"label {k * 7919 % 10007}" for k in range(MAX_COMPARED_NAMES)]
    start = time.process_time()
    assert did_you_mean("x" * 100_000, names) == ""
    assert did_you_mean("label 77777", [*names, "one more"]) == ""
    assert "label" in did_you_mean("labl 77777", names)
    assert time.process_time() - start < 1
