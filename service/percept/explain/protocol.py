"""What a method knows of an image and asks of the network around it: the words between `methods` and who drives them.

Letters: A [C,h,w] activations, y of the image as it is, g = dy/dA. What an ask answers is y, the sum of seed * logits,
one for each row.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from percept.explain.maps import Array
from percept.explain.perturbations import Colour

BATCH = 16  # rows of an ask, at most
ASK_BYTES = 2**26  # of activations in one ask, but one row there is always
GREY = (127.5, 127.5, 127.5)


@dataclass(frozen=True, eq=False)
class Scene:
    """What a method knows at the beginning.

    `A` [C,h,w] the activations of the layer; `pixels` uint8 [H,W,3] what the network saw; `y` of the image as it is;
    `rng` gives the same numbers for the same request. `blank` is the RGB colour, 0 to 255, that stands for nothing:
    best the mean that the network subtracts, which makes its input 0 there. `linear` says that g is the same whatever
    A is, so that one pass of the tail tells what any other would: y(B) = y(0) + sum(g B). `terms` is how many logits
    of a class y adds up: the pixels of a segmenter.
    """

    A: Array
    pixels: NDArray[np.uint8]
    y: float
    rng: np.random.Generator
    blank: Colour = GREY
    linear: bool = False
    terms: int = 1


@dataclass(frozen=True, eq=False)
class Tail:
    """Asks for the rest of the network on activations [n,C,h,w], n at most `BATCH`, and for g where `gradients`."""

    activations: Array
    gradients: bool = False


@dataclass(frozen=True, eq=False)
class Whole:
    """Asks for the whole network on images, uint8 [n,H,W,3], n at most `BATCH`."""

    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Answer:
    """y float32 [n], and g = dy/dA [n,C,h,w] of each row where it was asked for."""

    y: Array
    g: Array | None = None


Rows = NDArray[Any]
Ask = Tail | Whole
Look = Generator[Ask, Answer, Array]


def drive(look: Look, tail: Callable[[Tail], Answer], whole: Callable[[Whole], Answer]) -> Array:
    """The map at the end of a run, its asks answered by two functions as they come."""
    try:
        ask = next(look)
        while True:
            ask = look.send(tail(ask) if isinstance(ask, Tail) else whole(ask))
    except StopIteration as end:
        found: Array = end.value
        return found


def batches(rows: Iterable[Rows]) -> Iterator[Rows]:
    """Rows stacked to no more than an ask may hold, made as they are needed."""
    waiting = iter(rows)
    for row in waiting:
        most = min(BATCH, ASK_BYTES // row.nbytes)
        yield np.stack([row, *islice(waiting, max(0, most - 1))])


def values(ask: Callable[[Rows], Ask], rows: Iterable[Rows]) -> Generator[Ask, Answer, Array]:
    """y of every row, float32 [n]."""
    found = [np.zeros(0, np.float32)]
    for batch in batches(rows):
        found.append((yield ask(batch)).y)
    return np.concatenate(found)


def mean_gradient(rows: Iterable[Array], of: Callable[[Array], Array]) -> Generator[Ask, Answer, Array]:
    """The mean over rows of activations of something `of` their gradients [n,C,h,w]."""
    sums, n = [], 0
    for batch in batches(rows):
        sums.append(of(gradients_of((yield Tail(batch, gradients=True)))).sum(0))
        n += len(batch)
    return np.asarray(np.sum(sums, 0) / n, np.float32)


class Slope(NamedTuple):
    """y of the image as it is, by the tail, and g [C,h,w]."""

    y: float
    g: Array


def slope(scene: Scene) -> Generator[Ask, Answer, Slope]:
    """One pass of the tail on the activations as they are."""
    answer = yield Tail(scene.A[None], gradients=True)
    return Slope(float(answer.y[0]), gradients_of(answer)[0])


def gradients_of(answer: Answer) -> Array:
    """g of an answer to an ask for gradients."""
    assert answer.g is not None
    return answer.g
