"""How faithful a map is: how the score of its class changes when the hot pixels are removed or inserted.

The network's input and a map of it in [0,1] come in; the `Faithfulness` leaves. `measure_faithfulness` is a generator
that requests passes of the whole network; it knows no model, no queue and no thread.

Letters: I the image, M [H,W] the map, resized to the pixels of I by bilinear interpolation, y the score of I in [0,1].
A removed pixel has the colour that the graph turns into 0; insertion starts from the blurred image.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFilter
from pydantic import BaseModel, ConfigDict, Field

from percept.bundle.manifest import Manifest
from percept.errors import BadParameter
from percept.explain.maps import resize
from percept.explain.methods.masks import BlankColour, fade
from percept.explain.methods.protocol import LogitsRequest, stack_batches
from percept.imaging.geometry import Map, Pixels
from percept.imaging.preprocess import to_picture
from percept.tasks.table import TASKS
from percept.tasks.task import activate

STEPS = 16  # of a curve
PASSES = 3 + 2 * STEPS  # of the whole network for one map, without that of the image itself
HOT = 0.5  # of the map's maximum: a pixel from there on is hot
BLUR = 1 / 20  # sigma, in longer sides of the image; the paper's smaller one leaves a small image recognisable

ScoreFunction = Callable[[Map], float]  # logits [K] or [K,h,w] of one image to the score of the class


class Faithfulness(BaseModel):
    """How faithful a map is, in scores of its class in [0,1]; each curve has `STEPS` + 1 points, evenly spaced."""

    model_config = ConfigDict(frozen=True)

    score: float = Field(
        description="y, the score of the whole image; with `against`, that of the class among the two", examples=[0.93]
    )
    removed: float = Field(description="score without the hot region (heat from half the maximum)", examples=[0.21])
    kept: float = Field(description="score of the hot region alone", examples=[0.88])
    average_drop: float = Field(
        description="max(0, y - o) / y, where o is the score of the image multiplied by the heat", examples=[0.05]
    )
    increase: bool = Field(description="whether o > y", examples=[False])
    deletion: float = Field(description="area under the deletion curve: lower is better", examples=[0.12])
    insertion: float = Field(description="area under the insertion curve: higher is better", examples=[0.71])
    deletion_curve: list[float] = Field(
        description="scores while the pixels are removed, hottest first: from the whole image to none of it"
    )
    insertion_curve: list[float] = Field(
        description="scores while the pixels are inserted into the blurred image, hottest first: from none to all"
    )

    @property
    def header_value(self) -> str:
        """All numbers except the curves, as `score=0.93; removed=0.21; …`."""
        numbers = {name: value for name, value in self if not isinstance(value, list)}
        return "; ".join(
            f"{name}={str(v).lower() if isinstance(v, bool) else f'{v:.6g}'}" for name, v in numbers.items()
        )

    @property
    def caption(self) -> str:
        """The two areas, short enough to stand below a picture."""
        return f"ins {self.insertion:.2f}, del {self.deletion:.2f}"


def require_scores(manifest: Manifest, against: object = None) -> None:
    """Raise `BadParameter` if the model gives no scores in [0,1], which all measures are computed from."""
    if manifest.activation == "none" and against is None:
        raise BadParameter(
            f"faithfulness needs scores from 0 to 1, and model {manifest.name!r} gives bare logits (its activation is "
            "none): compare two classes with `against`"
        )


def score_function(manifest: Manifest, seed: Map, target: int, against: int | None = None) -> ScoreFunction:
    """Return the function that scores a class in logits: its task's score, always over the cells of this `seed`.

    With `against` the score is the sigmoid of the difference of the two classes' mean logits over these cells: for a
    classifier that is a softmax over the two classes.
    """
    if against is None:
        return lambda logits: TASKS[manifest.task].score(manifest, logits, target, seed)
    cells = seed[target] > 0

    def score_between_two(logits: Map) -> float:
        margin = (logits[target] - logits[against])[cells].mean()
        return float(activate(margin, "sigmoid"))

    return score_between_two


def measure_faithfulness(
    pixels: Pixels, logits: Map, heat: Map, score: ScoreFunction, blank: BlankColour
) -> Generator[LogitsRequest, Any, Faithfulness]:
    """Measure a map `heat` [h,w] in [0,1] of an image, uint8 [H,W,C], with its `logits`.

    Yields `LogitsRequest`s of `PASSES` images together, and receives the logits [n,K] or [n,K,h,w] of each.
    """
    scores: list[float] = []
    for batch in stack_batches(perturbed_images(pixels, heat, blank)):
        scores += map(score, (yield LogitsRequest(batch)))
    return summarize(score(logits), scores)


def perturbed_images(pixels: Pixels, heat: Map, blank: BlankColour) -> Iterator[Pixels]:
    """Make the `PASSES` images whose scores `summarize` takes, uint8 [H,W,C], in its order and one by one.

    `pixels` is I, `heat` float32 [h,w] in [0,1], `blank` the value, 0 to 255, of removed pixels.

    - I without the hot region, M >= max M / 2; then the hot region alone. A map of zeros has no hot region.
    - I times M: faded to `blank` as far as M is from 1.
    - Deletion: I without its hottest n pixels, n = 1/16, 2/16, ... 16/16 of all.
    - Insertion: I blurred, with its hottest n pixels restored, n = 0, 1/16, ... 15/16 of all.

    Equally hot pixels are taken in reading order, so a map of zeros is taken from top to bottom.
    """
    M = resize(heat, pixels.shape[:2])
    colour = np.rint(np.clip(blank, 0, 255)).astype(np.uint8)
    hot = (M > 0) & (HOT * M.max() <= M)
    yield _combine(hot, colour, pixels)
    yield _combine(hot, pixels, colour)
    yield fade(pixels, M, blank)
    rank, counts = _heat_ranks(M), np.rint(np.linspace(0, M.size, STEPS + 1))
    for n in counts[1:]:
        yield _combine(rank < n, colour, pixels)
    blurred = _blur(pixels)
    for n in counts[:-1]:
        yield _combine(rank < n, pixels, blurred)


def summarize(y: float, scores: Sequence[float]) -> Faithfulness:
    """Compute the measures from y and the scores of the `perturbed_images`.

    Average drop max(0, y - o) / y, 0 where y is 0, and increase, o > y, with o of I times M: Chattopadhay et al. 2018,
    arXiv:1710.11063. Deletion and insertion are the areas under their curves over the share of the pixels, from 0 to 1,
    by the trapezoidal rule: Petsiuk et al. 2018, arXiv:1806.07421.
    """
    removed, kept, o, *rest = scores
    deletion, insertion = [y, *rest[:STEPS]], [*rest[STEPS:], y]
    return Faithfulness(
        score=y,
        removed=removed,
        kept=kept,
        average_drop=max(0.0, y - o) / y if y > 0 else 0.0,
        increase=o > y,
        deletion=_area(deletion),
        insertion=_area(insertion),
        deletion_curve=deletion,
        insertion_curve=insertion,
    )


def _combine(where: NDArray[np.bool_], inside: Pixels, outside: Pixels) -> Pixels:
    """One image or colour inside a mask bool [H,W], another outside it."""
    return np.where(where[:, :, None], inside, outside)


def _heat_ranks(M: Map) -> NDArray[np.intp]:
    """The rank of every pixel [H,W] by its heat: 0 is the hottest."""
    ranks = np.empty(M.size, np.intp)
    ranks[np.argsort(-M, axis=None, kind="stable")] = np.arange(M.size)
    return ranks.reshape(M.shape)


def _blur(pixels: Pixels) -> Pixels:
    blurred = to_picture(pixels).filter(ImageFilter.GaussianBlur(BLUR * max(pixels.shape[:2])))
    return np.asarray(blurred).reshape(pixels.shape)


def _area(curve: Sequence[float]) -> float:
    return float(np.mean([(a + b) / 2 for a, b in pairwise(curve)]))
