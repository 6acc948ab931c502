"""What is measured of every map of a photo: faithfulness, localization and time.

A prepared photo with its trunk outputs comes in, a `MeasuredPhoto` leaves. `measure_photo` is a generator that the
service's runner drives, so that methods run here as they do in the service.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

from percept.evaluation.baselines import BASELINES
from percept.evaluation.localization import localize
from percept.evaluation.photos import ObjectMask
from percept.explain.faithfulness import Faithfulness, measure_faithfulness, score_function
from percept.explain.methods.runner import Steps
from percept.explain.question import ResolvedQuestion
from percept.explain.runner import explain
from percept.imaging.geometry import Map
from percept.runtime.session import Arrays
from percept.tasks.input_image import InputImage

ReadMask = Callable[[tuple[int, int], int | None], ObjectMask | None]  # of a size (width, height) and a target


@dataclass(frozen=True)
class Measurement:
    """What was measured of one map; None where it cannot be measured."""

    faithfulness: Faithfulness
    seconds: float | None = None
    pointing: bool | None = None
    energy: float | None = None


@dataclass(frozen=True, eq=False)
class MeasuredPhoto:
    """A photo with its top class, and by method or baseline the map of that class and its measurement."""

    image: InputImage
    label: str
    score: float
    heats: Mapping[str, Map]
    measurements: Mapping[str, Measurement]


def measure_photo(
    image: InputImage, outputs: Arrays, questions: Mapping[str, ResolvedQuestion], number: int, read_mask: ReadMask
) -> Steps[MeasuredPhoto]:
    """Explain the top class of a photo by each question and baseline, and measure each map.

    `questions` are by method, and each gives one map. `number` is the number of the photo, which seeds the random
    baseline. `read_mask` reads the mask of the photo's object, if there is one.
    """
    manifest, task, logits = image.model.manifest, image.task, outputs["logits"]
    target = task.targets(manifest, logits, None)[0]
    score = score_function(manifest, task.seed(manifest, logits, target, None), target)
    mask = read_mask(image.geometry.size, target if task.spatial else None)
    heats: dict[str, Map] = {}
    seconds: dict[str, float] = {}
    for method, question in questions.items():
        start = perf_counter()
        [explanation] = yield from explain(question, image, outputs)
        seconds[method], heats[method] = perf_counter() - start, explanation.heat
    heats |= {name: make_map(number, image.pixels.shape[:2]) for name, make_map in BASELINES.items()}
    measurements = {}
    for name, heat in heats.items():
        blank = manifest.preprocessing.blank
        faithfulness = yield from measure_faithfulness(image.pixels, logits, heat, score, blank)
        measurements[name] = Measurement(faithfulness, seconds.get(name), *localize(heat, image.geometry, mask))
    return MeasuredPhoto(image, manifest.labels[target], score(logits), heats, measurements)
