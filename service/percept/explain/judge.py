"""A model is asked how far a map can be trusted: the passes of the whole network that `faithfulness` needs.

They go through the model's queue in small batches between everybody else's, images are made as they are asked about,
and it all ends when it is cancelled.
"""

from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from percept.bundle.manifest import Manifest
from percept.errors import BadParameter
from percept.explain.faithfulness import Faithfulness, measured, trials
from percept.explain.protocol import BATCH
from percept.imaging.decode import Map, Pixels
from percept.runtime.model import Model
from percept.tasks.table import TASKS, activate

Score = Callable[[Map], float]
Work = Callable[..., Awaitable[Any]]  # runs a blocking function on a thread


def check(manifest: Manifest, against: object = None) -> None:
    """Raises `BadParameter` where the scores of a model are not those of which the measures are made."""
    if manifest.activation == "none" and against is None:
        raise BadParameter(
            f"faithfulness needs scores from 0 to 1, and model {manifest.name!r} gives bare logits (its activation is "
            "none): only a difference of two classes, with against, has one"
        )


def scorer(manifest: Manifest, seed: Map, target: int, against: int | None = None) -> Score:
    """The score of a class in logits [K] or [K,h,w]: its task's, always over the cells of the one `seed`.

    With `against` it is the sigmoid of the difference of the two classes' mean logits there: for a classifier what a
    softmax among the two would say.
    """
    if against is None:
        return lambda logits: TASKS[manifest.task].score(manifest, logits, target, seed)
    meant = seed[target] > 0

    def among_two(logits: Map) -> float:
        margin = (logits[target] - logits[against])[meant].mean()
        return float(activate(margin, "sigmoid"))

    return among_two


async def judged(model: Model, pixels: Pixels, logits: Map, heat: Map, score: Score, work: Work) -> Faithfulness:
    """How far a map [h,w] in [0,1] of an image, uint8 [H,W,3] with its `logits`, can be trusted."""
    images = trials(pixels, heat, model.manifest.preprocessing.blank)
    scores: list[float] = []
    while (batch := await work(_taken, images)) is not None:
        scores += await work(_scored, score, await model.logits(batch))
    return measured(score(logits), scores)


def _taken(images: Iterator[Pixels]) -> Pixels | None:
    """The next images, as many as go in one batch; None where there are no more."""
    batch = list(islice(images, BATCH))
    return np.stack(batch) if batch else None


def _scored(score: Score, logits: Map) -> list[float]:
    return [score(one) for one in logits]
