"""Checks of parameters that have no effect: `cases` names a URL with the parameter, and queries to add to it."""

from collections.abc import Iterable, Mapping, Sequence

import httpx

from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((60, 40), (20, 20), 9, (255, 80, 0)))

Cases = Mapping[str, Sequence[str]]


def combine(cases: Cases) -> list[tuple[str, str]]:
    """Every URL with each of its queries."""
    return [(url, query) for url, queries in cases.items() for query in queries]


def parameter(url: str) -> str:
    """The name of the last parameter of a URL."""
    return url.rsplit("&", 1)[1].split("=")[0]


def parameters(cases: Iterable[str]) -> set[str]:
    """The names of the parameters that the cases are about."""
    return set(map(parameter, cases))


def check_inapplicable(client: httpx.Client, url: str, query: str) -> None:
    """The parameter is an error that names it."""
    response = client.post(url + query, content=DATA)
    assert (response.status_code, response.json()["code"]) == (422, "bad_parameter")
    assert parameter(url) in response.json()["detail"]


def check_applicable(client: httpx.Client, url: str, query: str) -> None:
    """The parameter is accepted, and changes the response."""
    response = client.post(url + query, content=DATA)
    assert response.status_code == 200, response.text
    without = client.post(url.rsplit("&", 1)[0] + query, content=DATA)
    assert without.status_code == 200, without.text
    assert response.content != without.content


def check_defaults(client: httpx.Client, path: str, queries: Sequence[Mapping[str, str]]) -> None:
    """A form may send every default, as that of `/docs` does."""
    described = client.get("/openapi.json").json()["paths"][path]["post"]["parameters"]
    defaults = {one["name"]: one["schema"]["default"] for one in described if "default" in one["schema"]}
    assert defaults
    for query in queries:
        response = client.post(path, params={"model": "segmentation-squeeze", **defaults, **query}, content=DATA)
        assert response.status_code == 200, response.text
