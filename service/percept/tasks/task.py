"""What a task is: the functions that give meaning to a network's logits, and what all tasks share.

Letters: K classes, h and w cells of the logits. A seed has the shape of the logits. A CAM is computed from the gradient
of sum(seed * logits), so the seed selects the class and, for segmentation, the pixels that a map explains.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from percept.bundle.manifest import Activation, Manifest
from percept.errors import NetworkNotFinite, UnknownClass, did_you_mean, simplify_name
from percept.imaging.geometry import Geometry, Map

MAX_LABELS_LISTED = 20  # in an error message

Region = NDArray[np.bool_]  # cells of the logits, bool [h,w]


@dataclass(frozen=True)
class Task:
    """How one task reads the logits [K] or [K,h,w] of one image.

    - `predict(manifest, logits, geometry, top_k)`: the task's part of the JSON response.
    - `targets(manifest, logits, region)`: the classes to explain if the client names none, the most important first.
    - `seed(manifest, logits, class, region)`: the seed of a class; raises `TargetAbsent` if the image has none of it.
    - `score(manifest, logits, class, seed)`: the mean score of the class where its seed is not 0.
    - `spatial`: whether the logits have cells. Only then a region may be given; without one the region is the cells
      that are predicted as the class.
    """

    predict: Callable[[Manifest, Map, Geometry, int], BaseModel]
    targets: Callable[[Manifest, Map, Region | None], list[int]]
    seed: Callable[[Manifest, Map, int, Region | None], Map]
    score: Callable[[Manifest, Map, int, Map], float]
    spatial: bool


def activate(logits: Map, activation: Activation) -> Map:
    """Scores from logits along the first axis: softmax, sigmoid, or the logits themselves."""
    if activation == "softmax":
        powers = np.exp(logits - logits.max(0))
        return np.asarray(powers / powers.sum(0), np.float32)
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-logits.clip(-80, 80))), np.float32)
    return logits


def not_finite(manifest: Manifest, values: str) -> NetworkNotFinite:
    """The error for values of a network that are NaN or infinite, such as its `logits`."""
    return NetworkNotFinite(
        f"the {values} of model {manifest.name!r} are not finite for this image: check that mean, std and channels are "
        "those that the network was trained with (`GET /models/{name}` has them), and its weights (`percept verify`); "
        "float16 has no values above 65504"
    )


def class_index(manifest: Manifest, target: str) -> int:
    """The index of a class that is named by label or by index; raises `UnknownClass`, which lists the first labels.

    Case, spaces and underscores of a label make no difference, unless they distinguish it from another one.
    """
    if target in manifest.labels:
        return manifest.labels.index(target)
    if target.isdecimal() and int(target) < len(manifest.labels):
        return int(target)
    similar = _indices_by_simple_label(manifest.labels).get(simplify_name(target), ())
    if len(similar) == 1:
        return similar[0]
    more = ", …" if len(manifest.labels) > MAX_LABELS_LISTED else ""
    labels = ", ".join(manifest.labels[:MAX_LABELS_LISTED]) + more
    raise UnknownClass(
        f"model {manifest.name!r} has no class {target!r}; it has 0 to {len(manifest.labels) - 1}: {labels}"
        f"{did_you_mean(target, manifest.labels)}"
    )


@lru_cache
def _indices_by_simple_label(labels: tuple[str, ...]) -> Mapping[str, Sequence[int]]:
    indices: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        indices.setdefault(simplify_name(label), []).append(index)
    return indices


def mean_score(manifest: Manifest, logits: Map, index: int, seed: Map) -> float:
    """The mean score of a class where its seed is positive."""
    return float(activate(logits, manifest.activation)[index][seed[index] > 0].mean())
