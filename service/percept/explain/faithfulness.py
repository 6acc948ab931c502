"""How far a map can be trusted: what becomes of the score of its class where its hot places are hidden or shown.

The pixels that the network saw and a map of them in [0,1] come in, and the images leave that are to be asked about,
made one by one as they are needed; from the scores of those come the measures. It knows no class and no network.

Letters: I the image, M [H,W] the map enlarged to its pixels by bilinear interpolation, y the score of I in [0,1].
Nothing is the colour that a network takes for nothing, or for insertion the image blurred.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pydantic import BaseModel, ConfigDict, Field

from percept.explain.maps import resized
from percept.explain.perturbations import Colour, faded
from percept.imaging.decode import Map, Pixels

STEPS = 16  # of a curve
TRIALS = 3 + 2 * STEPS  # images to ask about for one map
HOT = 0.5  # share of the maximum from which on a place is hot
BLUR = 1 / 20  # sigma, in longer sides of the image; as little as in the paper leaves a small one recognisable


class Faithfulness(BaseModel):
    """What a map is worth, in scores of its class in [0,1]; each curve has `STEPS` + 1 points, evenly apart."""

    model_config = ConfigDict(frozen=True)

    score: float = Field(description="y, of the whole image; with against, of the class among the two", examples=[0.93])
    removed: float = Field(description="score without the hot region, half of the maximum and above", examples=[0.21])
    kept: float = Field(description="score with nothing but the hot region", examples=[0.88])
    average_drop: float = Field(description="max(0, y - o) / y, o of the image times the heat", examples=[0.05])
    increase: bool = Field(description="whether o > y", examples=[False])
    deletion: float = Field(description="area under its curve: low is good", examples=[0.12])
    insertion: float = Field(description="area under its curve: high is good", examples=[0.71])
    deletion_curve: list[float] = Field(description="scores as the hottest pixels go first, from all to none")
    insertion_curve: list[float] = Field(description="scores as they come first into the blurred image, none to all")

    @property
    def line(self) -> str:
        """The numbers without the curves, as `score=0.93; removed=0.21; …`."""
        said = {name: value for name, value in self if not isinstance(value, list)}
        return "; ".join(f"{name}={str(v).lower() if isinstance(v, bool) else f'{v:.6g}'}" for name, v in said.items())

    @property
    def areas(self) -> str:
        """The two areas in few letters."""
        return f"ins {self.insertion:.2f}, del {self.deletion:.2f}"


def trials(pixels: Pixels, heat: Map, blank: Colour) -> Iterator[Pixels]:
    """The `TRIALS` images to ask about, uint8 [H,W,3], in the order in which `measured` takes their scores.

    `pixels` is I, `heat` float32 [h,w] in [0,1], `blank` the RGB colour, 0 to 255, that stands for nothing.

    - I where M < max M / 2, nothing in the hot rest; and the other way round. A map of zeros has no hot region.
    - I times M: faded to nothing as far as M is from 1.
    - Deletion: I without its hottest n pixels, n = 1/16, 2/16, ... 16/16 of all.
    - Insertion: I blurred, with its hottest n pixels as they were, n = 0, 1/16, ... 15/16 of all.

    Pixels that are equally hot go in reading order, so a map of zeros goes from top to bottom.
    """
    M = resized(heat, pixels.shape[:2])
    nothing = np.rint(np.clip(blank, 0, 255)).astype(np.uint8)
    hot = (M > 0) & (HOT * M.max() <= M)
    yield _parted(hot, nothing, pixels)
    yield _parted(hot, pixels, nothing)
    yield faded(pixels, M, blank)
    place, counts = _places(M), np.rint(np.linspace(0, M.size, STEPS + 1))
    for n in counts[1:]:
        yield _parted(place < n, nothing, pixels)
    blurred = _blurred(pixels)
    for n in counts[:-1]:
        yield _parted(place < n, pixels, blurred)


def measured(y: float, scores: Sequence[float]) -> Faithfulness:
    """The measures from y and the scores of the `trials`.

    Average drop max(0, y - o) / y, 0 where y is 0, and increase, o > y, with o of I times M: Chattopadhay et al. 2018,
    arXiv:1710.11063. Deletion and insertion are the areas under their curves over the share of the pixels, from 0 to 1,
    by the trapezoid rule: Petsiuk et al. 2018, arXiv:1806.07421.
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


def _parted(here: NDArray[np.bool_], inside: Pixels, outside: Pixels) -> Pixels:
    """One picture or colour where a mask [H,W] is, another where it is not."""
    return np.where(here[:, :, None], inside, outside)


def _places(M: Map) -> NDArray[np.intp]:
    """The place of every pixel [H,W] when all are lined up, 0 for the hottest."""
    places = np.empty(M.size, np.intp)
    places[np.argsort(-M, axis=None, kind="stable")] = np.arange(M.size)
    return places.reshape(M.shape)


def _blurred(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR * max(pixels.shape[:2]))))


def _area(curve: Sequence[float]) -> float:
    return float(np.mean([(a + b) / 2 for a, b in pairwise(curve)]))
