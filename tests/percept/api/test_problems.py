"""Problem details: a row for every error class, and one form for every failure."""

import httpx
import pytest

from percept import errors
from percept.api.problems import PROBLEMS


def test_every_error_has_a_row_and_a_unique_code() -> None:
    classes = {kind for kind in errors.PerceptError.__subclasses__() if kind.__module__ == errors.__name__}
    assert set(PROBLEMS) == classes
    codes = [kind.code for kind in PROBLEMS.values()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("GET", "/models/unknown", 404, "unknown_model"),
        ("GET", "/models/classification-pad?version=7", 404, "unknown_model"),
        ("GET", "/models/classification-pad?version=x", 422, "bad_parameter"),
        ("POST", "/predict?model=unknown", 404, "unknown_model"),
        ("POST", "/predict?version=0", 404, "unknown_model"),
        ("POST", "/predict?colour=red", 422, "bad_parameter"),
        ("POST", "/predict", 400, "bad_request"),
    ],
)
def test_failure_is_a_problem(client: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    response = client.request(method, path)
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"] == f"urn:percept:problem:{code}"
    assert problem["instance"] == f"urn:percept:request:{response.headers['x-request-id']}"
    assert set(problem) == {"type", "title", "status", "detail", "code", "instance"}
    assert problem["detail"]


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/models/classification-pad?version=x", "version: "),
        ("/models/classification-pad/filters?colour=1", "colour: "),
    ],
)
def test_problem_names_the_invalid_parameter(client: httpx.Client, path: str, detail: str) -> None:
    assert client.get(path).json()["detail"].startswith(detail)
