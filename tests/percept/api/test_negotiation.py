"""Which media type an answer has."""

import pytest

from percept.api.negotiation import choose
from percept.errors import BadParameter, NotAcceptable

OFFERED = ("jpeg", "png", "webp", "npy", "json")
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
def test_accept_decides(accept: str | None, expected: str) -> None:
    assert choose(None, accept, OFFERED) == expected


def test_format_wins_over_accept() -> None:
    assert choose("npy", "image/png", OFFERED) == "npy"


def test_what_cannot_be_made_is_refused_with_what_can() -> None:
    with pytest.raises(NotAcceptable, match="image/jpeg, image/png"):
        choose(None, "text/html", ("jpeg", "png"))
    with pytest.raises(BadParameter, match="there are json"):
        choose("png", None, ("json",))
