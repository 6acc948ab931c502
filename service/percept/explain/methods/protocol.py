"""What an explanation method receives, and the passes of the network that it may request.

A method is a generator: it yields requests, receives one result for each, and returns its map. The runner executes
the requests; a method knows neither the model nor the seed nor the thread that its passes run on.

Letters: A [C,h,w] activations of the layer, y = sum(seed * logits), g = dy/dA [C,h,w].
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from percept.explain.maps import Array
from percept.explain.methods.masks import BlankColour

MAX_BATCH = 16  # activations or images in one request
MAX_BATCH_BYTES = 2**26  # of one request; a request always holds at least one
DEFAULT_BLANK = (127.5, 127.5, 127.5)


@dataclass(frozen=True, eq=False)
class MethodInput:
    """What a method knows when it starts.

    `A` [C,h,w] are the activations of the layer, `pixels` uint8 [H,W,C] the network's input, and `y` is computed by
    the trunk on that input. `rng` has the same seed for every request. `blank` is the pixel, 0 to 255, that stands
    for "no information": preferably the mean that the network subtracts, because its input is then 0. `linear`
    says that g does not depend on A, so that y(B) = y(0) + sum(g B) and one pass of the tail replaces all others.
    `terms` is the number of logits that y adds up: the pixels of a segmenter.
    """

    A: Array
    pixels: NDArray[np.uint8]
    y: float
    rng: np.random.Generator
    blank: BlankColour = DEFAULT_BLANK
    linear: bool = False
    terms: int = 1


@dataclass(frozen=True, eq=False)
class TailRequest:
    """Run the tail on activations [n,C,h,w], n at most `MAX_BATCH`; return g too if `gradients`."""

    activations: Array
    gradients: bool = False


@dataclass(frozen=True, eq=False)
class NetworkRequest:
    """Run the whole network on images, uint8 [n,H,W,C], n at most `MAX_BATCH`."""

    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class LogitsRequest:
    """Run the whole network on images, uint8 [n,H,W,C], n at most `MAX_BATCH`; return the logits instead of y.

    The measurement of faithfulness and the runner yield it; a method yields `NetworkRequest`.
    """

    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PassResult:
    """y float32 [n], and g = dy/dA [n,C,h,w] if the request had `gradients`."""

    y: Array
    g: Array | None = None


Batch = NDArray[Any]
PassRequest = TailRequest | NetworkRequest
MethodRun = Generator[PassRequest, PassResult, Array]


def stack_batches(arrays: Iterable[Batch]) -> Iterator[Batch]:
    """Stack arrays of one shape into batches, each as large as one request may be; the arrays are consumed lazily."""
    remaining = iter(arrays)
    for first in remaining:
        size = min(MAX_BATCH, MAX_BATCH_BYTES // first.nbytes)
        yield np.stack([first, *islice(remaining, max(0, size - 1))])


def compute_y(
    request: Callable[[Batch], PassRequest], arrays: Iterable[Batch]
) -> Generator[PassRequest, PassResult, Array]:
    """Compute y of every array by requests of one type: float32 [n]."""
    y = [np.zeros(0, np.float32)]
    for batch in stack_batches(arrays):
        y.append((yield request(batch)).y)
    return np.concatenate(y)


def mean_over_gradients(
    activations: Iterable[Array], function: Callable[[Array], Array]
) -> Generator[PassRequest, PassResult, Array]:
    """The mean of `function(gradients)` over all activations; `function` takes [n,C,h,w] and returns [n,...]."""
    sums, n = [], 0
    for batch in stack_batches(activations):
        sums.append(function(gradients_of((yield TailRequest(batch, gradients=True)))).sum(0))
        n += len(batch)
    return np.asarray(np.sum(sums, 0) / n, np.float32)


class GradientPass(NamedTuple):
    """y and g [C,h,w] at the layer's own activations, both computed by the tail."""

    y: float
    g: Array


def gradient_pass(inputs: MethodInput) -> Generator[PassRequest, PassResult, GradientPass]:
    """Run the tail once, with gradients, on the layer's own activations."""
    result = yield TailRequest(inputs.A[None], gradients=True)
    assert result.g is not None
    return GradientPass(float(result.y[0]), result.g[0])


def gradients_of(result: PassResult) -> Array:
    """The gradients g [n,C,h,w] of a result whose request had `gradients`."""
    assert result.g is not None
    return result.g
