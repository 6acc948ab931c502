"""What a network's logits mean: one row of `TASKS` for each task, from logits to answer and from target to seed.

A seed has the shape of the logits; the gradient of sum(seed * logits) is what a CAM is made of, so it says which
class, and for segmentation which pixels, an explanation is about. Letters: K classes, h and w cells of the logits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from percept.bundle.manifest import Activation, Manifest
from percept.errors import TargetAbsent, UnknownClass
from percept.imaging.decode import UNSEEN, Geometry, Map, Pixels, spread

MAX_MASK_PIXELS = 2**20

Cells = NDArray[np.bool_]  # [h,w], of the logits


class Prediction(BaseModel):
    """One class of a classifier's answer."""

    label: str = Field(examples=["cat"])
    index: int = Field(examples=[3])
    score: float = Field(description="after the model's activation", examples=[0.93])


class Share(BaseModel):
    """One class of a segmenter's answer."""

    label: str = Field(examples=["upper"])
    index: int = Field(examples=[3])
    fraction: float = Field(description="share of the seen pixels, 0 to 1", examples=[0.21])


class Classification(BaseModel):
    """The classes of the whole image, the most probable first."""

    predictions: list[Prediction]


class Segmentation(BaseModel):
    """The classes present in the image, the largest first."""

    classes: list[Share]


@dataclass(frozen=True)
class Task:
    """What a task does with logits [K] or [K,h,w] of one image.

    `answer` makes the JSON part; `targets` gives the classes that an explanation is about where none was named, the
    most important first; `seed` makes the seed of a class and raises `TargetAbsent` where the image has nothing of
    it; `score` is the class's mean score where its seed is. For segmentation `targets` and `seed` may be told the
    cells bool [h,w] that are meant; without them they are those predicted as the class.
    """

    answer: Callable[[Manifest, Map, Geometry, int], BaseModel]
    targets: Callable[[Manifest, Map, Cells | None], list[int]]
    seed: Callable[[Manifest, Map, int, Cells | None], Map]
    score: Callable[[Manifest, Map, int, Map], float]
    cells: bool


def activate(logits: Map, activation: Activation) -> Map:
    """Scores from logits along the first axis: softmax, sigmoid or the logits themselves."""
    if activation == "softmax":
        powers = np.exp(logits - logits.max(0))
        return np.asarray(powers / powers.sum(0), np.float32)
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-logits.clip(-80, 80))), np.float32)
    return logits


def class_index(manifest: Manifest, target: str) -> int:
    """The index of a class given by label or by index; raises `UnknownClass` with the nearest help."""
    if target in manifest.labels:
        return manifest.labels.index(target)
    if target.isdecimal() and int(target) < len(manifest.labels):
        return int(target)
    labels = ", ".join(manifest.labels[:20]) + (", …" if len(manifest.labels) > 20 else "")
    raise UnknownClass(
        f"model {manifest.name!r} has no class {target!r}; it has 0 to {len(manifest.labels) - 1}: {labels}"
    )


def mask(logits: Map, view: Geometry) -> Pixels:
    """The class of every pixel of the photo, uint8 [height,width]; `UNSEEN` where the network saw nothing."""
    small = Image.fromarray(label(logits, view))
    return np.asarray(small.resize((view.width, view.height), Image.Resampling.NEAREST))


def label(logits: Map, view: Geometry) -> Pixels:
    """As `mask`, but of at most `MAX_MASK_PIXELS`: finer than any network's logits, whatever the photo's size.

    Logits are interpolated before the classes are compared, so that edges do not follow the cells.
    """
    factor = (MAX_MASK_PIXELS / (view.width * view.height)) ** 0.5
    return _argmax(logits, view if factor >= 1 else view.scaled(factor))


def _argmax(logits: Map, view: Geometry) -> Pixels:
    """One class after the other, so that memory stays at two maps however many classes there are."""
    best = spread(logits[0], view)
    winner = np.where(np.isnan(best), np.uint8(UNSEEN), np.uint8(0))
    for k in range(1, len(logits)):
        rival = spread(logits[k], view)
        better = rival > best
        winner[better] = k
        best = np.where(better, rival, best)
    return winner


def _classify(manifest: Manifest, logits: Map, view: Geometry, top_k: int) -> Classification:
    order = _greatest(logits, top_k)
    scores = activate(logits, manifest.activation)
    return Classification(
        predictions=[Prediction(label=manifest.labels[k], index=k, score=float(scores[k])) for k in order]
    )


def _greatest(values: Map, count: int) -> list[int]:
    """The indices of the greatest values, the greatest first, equal ones by index; all others stay unsorted."""
    least = np.partition(values, -count)[-count] if count < len(values) else -np.inf
    found = np.flatnonzero(values >= least)
    best: list[int] = found[np.argsort(-values[found], kind="stable")][:count].tolist()
    return best


def _segment(manifest: Manifest, logits: Map, view: Geometry, top_k: int) -> Segmentation:
    labelled = label(logits, view)
    counts = np.bincount(labelled[labelled != UNSEEN], minlength=len(manifest.labels))
    order = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
    return Segmentation(
        classes=[Share(label=manifest.labels[k], index=k, fraction=float(counts[k] / counts.sum())) for k in order]
    )


def _best_classes(manifest: Manifest, logits: Map, cells: Cells | None) -> list[int]:
    found: list[int] = np.argsort(-logits, kind="stable").tolist()
    return found


def _largest_classes(manifest: Manifest, logits: Map, cells: Cells | None) -> list[int]:
    """The classes present, by their number of cells; the background last."""
    winners = logits.argmax(0)
    counts = np.bincount(winners.ravel() if cells is None else winners[cells], minlength=len(logits))
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    return sorted(order, key=lambda k: k == manifest.background)


def _seed_class(manifest: Manifest, logits: Map, index: int, cells: Cells | None) -> Map:
    seed = np.zeros_like(logits)
    seed[index] = 1
    return seed


def _seed_cells(manifest: Manifest, logits: Map, index: int, cells: Cells | None) -> Map:
    """1 in the plane of the class, at the cells that are meant."""
    winners = logits.argmax(0)
    meant = winners == index if cells is None else cells
    if not meant.any():
        present = ", ".join(manifest.labels[k] for k in np.unique(winners))
        raise TargetAbsent(f"no pixel of this image is predicted as {manifest.labels[index]!r}; present are {present}")
    seed = np.zeros_like(logits)
    seed[index] = meant
    return seed


def _score(manifest: Manifest, logits: Map, index: int, seed: Map) -> float:
    """The mean score of the class where its seed is."""
    return float(activate(logits, manifest.activation)[index][seed[index] > 0].mean())


TASKS: dict[str, Task] = {
    "classification": Task(_classify, _best_classes, _seed_class, _score, cells=False),
    "segmentation": Task(_segment, _largest_classes, _seed_cells, _score, cells=True),
}
