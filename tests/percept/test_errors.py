"""Validation errors are formatted in one line, with the path of each wrong value."""

import pytest
from pydantic import BaseModel, ValidationError, model_validator

from percept.errors import format_validation_errors


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
        ({"x": -1}, "Value error, x is negative"),
    ],
)
def test_validation_errors_are_one_line(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Point.model_validate(data)
    assert format_validation_errors(raised.value) == message
