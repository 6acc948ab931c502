"""The format of a response: by `format`, by `Accept`, or the default."""

import pytest

from percept.api.negotiation import choose_format
from percept.errors import BadParameter, NotAcceptable

FORMATS = ("jpeg", "png", "webp", "npy", "json")
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "jpeg"),
        ("*/*", "jpeg"),
        ("image/*", "jpeg"),
        ("image/png", "png"),
        ("IMAGE/PNG", "png"),
        ("application/json", "json"),
        ("application/x-npy, */*;q=0.1", "npy"),
        ("image/*;q=0.5, image/webp", "webp"),
        ("image/jpeg;q=0, image/*", "png"),
        ("image/png;q=broken, image/webp;q=0.1", "webp"),
        (BROWSER, "webp"),
    ],
)
def test_accept_chooses_the_format(accept: str | None, expected: str) -> None:
    assert choose_format(None, accept, FORMATS) == expected


def test_format_parameter_overrides_accept() -> None:
    assert choose_format("npy", "image/png", FORMATS) == "npy"


def test_error_lists_the_available_formats() -> None:
    with pytest.raises(NotAcceptable, match="image/jpeg, image/png"):
        choose_format(None, "text/html", ("jpeg", "png"))
    with pytest.raises(BadParameter, match="available are json"):
        choose_format("png", None, ("json",))
