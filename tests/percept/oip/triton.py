"""NVIDIA's client `tritonclient[http]`, unmodified, and its inputs for the marker bundles."""

import base64
from collections.abc import Sequence

import httpx
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput

from tests.photos import draw_marker, encode_photo

CLASSIFIER, SEGMENTER = "classification-squeeze", "segmentation-squeeze"
LABELS = ["red", "green", "blue"]
RED = encode_photo(draw_marker((200, 160), (60, 60), 40), "JPEG")
BLUE = encode_photo(draw_marker((90, 120), (40, 70), 30, (0, 0, 255)), "PNG")


def connect(http: httpx.Client) -> InferenceServerClient:
    """Create a Triton client of the server that an HTTP client uses."""
    return InferenceServerClient(http.base_url.netloc.decode(), concurrency=4, network_timeout=60)


def image_input(*images: bytes, binary: bool = True, shape: Sequence[int] = ()) -> list[InferInput]:
    """The input `image`; in JSON its elements are base64."""
    values = images if binary else [base64.b64encode(image) for image in images]
    shaped = np.array(values, dtype=object).reshape(shape or (len(images), 1))
    return [InferInput("image", list(shaped.shape), "BYTES").set_data_from_numpy(shaped, binary_data=binary)]


def pixel_input(pixels: np.ndarray, binary: bool = True) -> list[InferInput]:
    """The input `pixels`."""
    return [InferInput("pixels", list(pixels.shape), "UINT8").set_data_from_numpy(pixels, binary_data=binary)]
