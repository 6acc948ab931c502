"""Classification: logits [K] of one image to its best classes, and a class to its seed."""

import numpy as np
from pydantic import BaseModel, Field

from percept.bundle.manifest import Manifest
from percept.imaging.geometry import Geometry, Map
from percept.tasks.task import Region, Task, activate, mean_score


class Prediction(BaseModel):
    """One class of a classifier's prediction."""

    label: str = Field(examples=["cat"])
    index: int = Field(examples=[3])
    score: float = Field(description="after the model's activation", examples=[0.93])


class Classification(BaseModel):
    """The classes of the whole image, the most probable first."""

    predictions: list[Prediction]


def predict_classes(manifest: Manifest, logits: Map, geometry: Geometry, top_k: int) -> Classification:
    """The `top_k` classes with the greatest logits."""
    order = _greatest(logits, top_k)
    scores = activate(logits, manifest.activation)
    return Classification(
        predictions=[Prediction(label=manifest.labels[k], index=k, score=float(scores[k])) for k in order]
    )


def rank_classes(manifest: Manifest, logits: Map, region: Region | None) -> list[int]:
    """All classes, the greatest logit first."""
    order: list[int] = np.argsort(-logits, kind="stable").tolist()
    return order


def seed_class(manifest: Manifest, logits: Map, index: int, region: Region | None) -> Map:
    """1 at the class, 0 elsewhere; -1 at class 1 for an added class 0, whose logit is always 0."""
    seed = np.zeros_like(logits)
    seed[index] = 1
    if index == 0 and manifest.head.added == "zero":
        seed[1] = -1
    return seed


def _greatest(values: Map, count: int) -> list[int]:
    """The indices of the greatest values, the greatest first, equal ones by index; the others are not sorted."""
    least = np.partition(values, -count)[-count] if count < len(values) else -np.inf
    candidates = np.flatnonzero(values >= least)
    best: list[int] = candidates[np.argsort(-values[candidates], kind="stable")][:count].tolist()
    return best


CLASSIFICATION = Task(predict_classes, rank_classes, seed_class, mean_score, spatial=False)
