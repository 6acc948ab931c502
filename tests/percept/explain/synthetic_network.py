"""Small networks written in NumPy, which execute the requests of methods."""

from typing import Any

import numpy as np

from percept.explain.methods.protocol import MethodInput, NetworkRequest, PassRequest, PassResult, TailRequest
from percept.explain.methods.table import METHODS
from tests.method_runs import run_method


class SyntheticNetwork:
    """Pixels mixed to C channels, ReLU and the mean of each cell give A; y is a function of A.

    A `linear` network computes y as a weighted sum of the channels' means, a `deep` one by a hidden layer of ReLUs over
    all of A. `requests` are those that it has executed.
    """

    def __init__(self, kind: str = "deep", shape: tuple[int, int, int] = (6, 4, 3), scale: int = 4) -> None:
        rng = np.random.default_rng(7)
        self.kind, self.shape, self.scale = kind, shape, scale
        C, n = shape[0], int(np.prod(shape))
        self.mix = rng.standard_normal((3, C))
        self.mix -= self.mix.mean(0)  # so that grey gives activations of 0
        self.w, self.b = rng.standard_normal(C), 0.3
        self.W1, self.b1 = rng.standard_normal((n, 8)) / n**0.5, 0.1 * rng.standard_normal(8)
        self.W2 = rng.standard_normal(8)
        self.requests: list[PassRequest] = []

    @property
    def passes(self) -> int:
        """The number of passes that were requested."""
        return sum(map(batch_size, self.requests))

    @property
    def images(self) -> np.ndarray:
        """The images of all requests, [n,H,W,3]."""
        return np.concatenate([one.pixels for one in self.requests if isinstance(one, NetworkRequest)])

    def execute(self, request: PassRequest) -> PassResult:
        return self.run_tail(request) if isinstance(request, TailRequest) else self.run_network(request)

    def layer(self, pixels: np.ndarray) -> np.ndarray:
        n, (_, h, w) = len(pixels), self.shape
        mixed = np.maximum(pixels / 255 @ self.mix - 0.02, 0)
        return mixed.reshape(n, h, self.scale, w, self.scale, -1).mean((2, 4)).transpose(0, 3, 1, 2)

    def y(self, A: np.ndarray) -> np.ndarray:
        if self.kind == "linear":
            return A.mean((2, 3)) @ self.w + self.b
        return np.maximum(A.reshape(len(A), -1) @ self.W1 + self.b1, 0) @ self.W2 + self.b

    def g(self, A: np.ndarray) -> np.ndarray:
        if self.kind == "linear":
            return np.broadcast_to(self.w[:, None, None] / A[0, 0].size, A.shape)
        on = A.reshape(len(A), -1) @ self.W1 + self.b1 > 0
        return ((on * self.W2) @ self.W1.T).reshape(A.shape)

    def run_tail(self, request: TailRequest) -> PassResult:
        assert request.activations.shape[1:] == self.shape
        assert request.activations.dtype == np.float32
        self.requests.append(request)
        A = request.activations.astype(np.float64)
        g = np.asarray(self.g(A), np.float32) if request.gradients else None
        return PassResult(np.asarray(self.y(A), np.float32), g)

    def run_network(self, request: NetworkRequest) -> PassResult:
        assert request.pixels.dtype == np.uint8
        self.requests.append(request)
        return PassResult(np.asarray(self.y(self.layer(request.pixels)), np.float32))

    def inputs(self, pixels: np.ndarray, **more: Any) -> MethodInput:
        A = np.asarray(self.layer(pixels[None]), np.float32)
        return MethodInput(A[0], pixels, float(self.y(A)[0]), np.random.default_rng(0), **more)

    def noise(self, seed: int = 0) -> np.ndarray:
        h, w = (n * self.scale for n in self.shape[1:])
        return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)

    def compute_map(self, name: str, inputs: MethodInput) -> np.ndarray:
        map_ = run_method(METHODS[name].run(inputs), self.run_tail, self.run_network)
        assert map_.shape == inputs.A.shape[1:]
        assert map_.dtype == np.float32
        assert np.isfinite(map_).all()
        return map_


def batch_size(request: PassRequest) -> int:
    """The number of passes of a request."""
    return len(request.activations if isinstance(request, TailRequest) else request.pixels)
