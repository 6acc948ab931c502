"""Drive the measurement of faithfulness with a model, on its queue and a worker thread."""

from collections.abc import Awaitable, Callable
from typing import Any

from percept.explain.faithfulness import Faithfulness, ScoreFunction, measure_faithfulness
from percept.explain.protocol import LogitsRequest
from percept.imaging.geometry import Map, Pixels
from percept.runtime.model import Model

Work = Callable[..., Awaitable[Any]]  # runs a blocking function on a thread


async def judged(
    model: Model, pixels: Pixels, logits: Map, heat: Map, score: ScoreFunction, work: Work
) -> Faithfulness:
    """The faithfulness of a map [h,w] in [0,1] of an image, uint8 [H,W,3] with its `logits`."""
    run = measure_faithfulness(pixels, logits, heat, score, model.manifest.preprocessing.blank)

    def advance(answer: Map | None) -> LogitsRequest | Faithfulness:
        try:
            return run.send(answer)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            found: Faithfulness = end.value
            return found

    step = await work(advance, None)
    while isinstance(step, LogitsRequest):
        step = await work(advance, await model.logits(step.pixels))
    return step
