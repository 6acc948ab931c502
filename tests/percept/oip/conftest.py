"""Fixtures of the tests of the Open Inference Protocol."""

from collections.abc import Iterator

import httpx
import pytest
from tritonclient.http import InferenceServerClient

from tests.percept.oip.triton import connect


@pytest.fixture(scope="module")
def triton(client: httpx.Client) -> Iterator[InferenceServerClient]:
    """A Triton client of the marker bundles."""
    with connect(client) as triton_client:
        yield triton_client
