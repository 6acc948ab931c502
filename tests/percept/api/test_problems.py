"""Every error has a row, and every failure leaves as a problem."""

import httpx
import pytest

from percept import errors
from percept.api.problems import PROBLEMS


def test_every_error_has_a_row_and_every_code_is_its_own() -> None:
    own = {kind for kind in errors.PerceptError.__subclasses__() if kind.__module__ == errors.__name__}
    assert set(PROBLEMS) == own
    codes = [kind.code for kind in PROBLEMS.values()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("GET", "/models/nobody", 404, "unknown_model"),
        ("GET", "/models/classification-pad?version=7", 404, "unknown_model"),
        ("GET", "/models/classification-pad?version=x", 422, "bad_parameter"),
        ("POST", "/predict?model=nobody", 404, "unknown_model"),
        ("POST", "/predict?version=0", 404, "unknown_model"),
        ("POST", "/predict?colour=red", 422, "bad_parameter"),
        ("POST", "/predict", 400, "bad_request"),
    ],
)
def test_a_failure_is_a_problem(client: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"] == f"urn:percept:problem:{code}"
    assert problem["instance"] == f"urn:percept:request:{answer.headers['x-request-id']}"
    assert set(problem) == {"type", "title", "status", "detail", "code", "instance"}
    assert problem["detail"]
