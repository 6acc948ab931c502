"""ETags: what they depend on, how `If-None-Match` is compared, and the headers of a 304."""

import pytest
from fastapi import Request

from percept.api.etag import compute_etag, matches, not_modified


def request(path: str = "/cam/id", query: str = "", *if_none_match: str) -> Request:
    headers = [(b"if-none-match", value.encode("latin-1")) for value in if_none_match]
    server = {"type": "http", "scheme": "http", "server": ("percept", 80), "method": "GET"}
    return Request({**server, "path": path, "query_string": query.encode(), "headers": headers})


@pytest.mark.parametrize(
    "if_none_match",
    [
        '"x"',
        'W/"x"',
        "*",
        " * ",
        '"a", "x"',
        '"a","x"',
        '"a", W/"x", "b"',
        '"a,b", "x"',
        ' ,, "x" ,',
        'W/"é", "x"',
        '"", "x"',
    ],
)
@pytest.mark.parametrize("etag", ['"x"', 'W/"x"'])
def test_if_none_match_is_compared_weakly(if_none_match: str, etag: str) -> None:
    assert matches(if_none_match, etag)


@pytest.mark.parametrize(
    "if_none_match", ["", '"y"', "x", '"x', 'x"', '"X"', 'W/"y"', '"a,x"', '"x,"', '"*"', '""', '"a" "b"', 'w/"xx"']
)
def test_other_etags_do_not_match(if_none_match: str) -> None:
    assert not matches(if_none_match, '"x"')


def test_etag_with_a_comma_matches() -> None:
    assert matches('"a", "x,y"', '"x,y"')
    assert not matches('"a", "x,y"', '"x"')


def test_etag_depends_on_url_and_parts() -> None:
    etag = compute_etag(request("/cam/id", "a=1&b=2"), "png")
    assert etag == compute_etag(request("/cam/id", "b=2&a=1"), "png")
    others = [
        compute_etag(request("/cam/id", "a=1&b=2"), "jpeg"),
        compute_etag(request("/cam/id", "a=1&b=3"), "png"),
        compute_etag(request("/cam/other", "a=1&b=2"), "png"),
        compute_etag(request("/cam/id", "a=1&b=2"), "png", 1),
    ]
    assert len({etag, *others}) == 5
    assert etag[0] == etag[-1] == '"'


def test_not_modified_has_the_headers_of_the_response() -> None:
    headers = {"ETag": '"x"', "Cache-Control": "no-cache", "Vary": "Accept"}
    response = not_modified(request("/", "", 'W/"x"'), headers)
    assert response is not None
    assert (response.status_code, response.body) == (304, b"")
    assert {name: response.headers[name] for name in headers} == headers


def test_several_header_lines_are_one_list() -> None:
    headers = {"ETag": '"x"'}
    assert not_modified(request("/", "", '"a"', '"x"'), headers) is not None
    assert not_modified(request("/", "", '"a"', '"b"'), headers) is None
    assert not_modified(request(), headers) is None
