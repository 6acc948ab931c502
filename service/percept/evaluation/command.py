"""The command `percept evaluate`: measures over a folder of photos how faithful each method's maps of a model are.

A bundle and a folder of photos come in; the files of a report leave. A photo is processed as in the service, without
HTTP: by the same decoder, queue and runner. Two baselines (`baselines`) are measured too, which a method should beat.
"""

import asyncio
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

from percept.errors import BadParameter, PerceptError
from percept.evaluation.measurement import MeasuredPhoto, Measurement, measure_photo
from percept.evaluation.photos import ObjectMask, PhotoFolder
from percept.evaluation.report import SHEET_PHOTOS, Report, write_report
from percept.explain.faithfulness import require_scores
from percept.explain.methods.table import METHODS
from percept.explain.question import Question, ResolvedQuestion, find_layers, resolve, unavailable_reason
from percept.explain.runner import Progress, advance, drive
from percept.runtime.cpu_count import count_cpus
from percept.runtime.execution_plan import create_worker_pools, plan_execution
from percept.runtime.model import ONLY_LOGITS, Model, load_model
from percept.runtime.network import TrunkInput
from percept.runtime.session import Arrays
from percept.runtime.worker_pool import WorkerPool
from percept.settings import Settings
from percept.tasks.input_image import InputImage, prepare


def evaluate(arguments: list[str]) -> int:
    """`percept evaluate BUNDLE FOLDER …`: write table.md, table.json and sheet.png, and print the table."""
    options = _parser().parse_args(arguments)
    settings = Settings()
    threads = settings.threads or count_cpus()
    plan = plan_execution(settings, threads)
    pools = create_worker_pools(plan, threads)
    try:
        _evaluate(options, load_model(options.bundle, plan, pools), settings, pools.host)
    except OSError as error:
        raise PerceptError(str(error)) from error
    finally:
        pools.close()
    return 0


def _evaluate(options: Namespace, model: Model, settings: Settings, workers: WorkerPool) -> None:
    """Measure every photo and write the report; raises `PerceptError` if an option cannot be used."""
    manifest = model.manifest
    require_scores(manifest)
    out: Path = options.out or Path(f"evaluation-{manifest.name}")
    folder = PhotoFolder(options.folder, options.masks, [out])
    layer: str = options.layer or manifest.cam_layer
    methods, left_out = _choose_methods(options, model, layer)
    questions = {name: resolve(model, Question((name,), (layer,))) for name in methods}
    out.mkdir(parents=True, exist_ok=True)
    for name, reason in left_out.items():
        _print_progress(f"left out: {name}, {reason}")
    measured = FolderMeasurement(model, settings, workers, folder, questions)
    asyncio.run(measured.run(folder.sample(options.limit)))
    if not measured.count:
        raise PerceptError(f"every photo of {folder.folder} is broken")
    title = f"{manifest.name}/{manifest.version}"
    report = Report(title, layer, measured.count, measured.measurements, measured.shown, left_out, measured.skipped)
    print(f"{write_report(report, out)}\n\n{out / 'table.md'}, table.json and sheet.png are written")


class FolderMeasurement:
    """Measures photos one after the other and collects the results.

    `measurements` are by method or baseline, `shown` are the first `SHEET_PHOTOS` photos, `skipped` has the reason for
    each photo that cannot be decoded, and `count` is the number of the other photos.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        workers: WorkerPool,
        folder: PhotoFolder,
        questions: Mapping[str, ResolvedQuestion],
    ) -> None:
        self._model, self._settings, self._workers = model, settings, workers
        self._folder, self._questions = folder, questions
        self._outputs = ONLY_LOGITS.union(*(question.outputs for question in questions.values()))
        self.measurements: dict[str, list[Measurement]] = {}
        self.shown: list[MeasuredPhoto] = []
        self.skipped: dict[str, str] = {}
        self.count = 0

    async def run(self, photos: Sequence[Path]) -> None:
        """Measure the photos, and report the progress on stderr."""
        for number, photo in enumerate(photos, 1):
            start, name = perf_counter(), self._folder.name(photo)
            try:
                image = await self._workers.run(self._prepare, photo)
            except (PerceptError, OSError) as error:
                self.skipped[name] = str(error)
                _print_progress(f"{number}/{len(photos)}  {name} is skipped: {error}")
                continue
            measured = await self._measure(photo, image, number)
            self._add(measured)
            seconds = perf_counter() - start
            _print_progress(f"{number}/{len(photos)}  {name}  {measured.label} {measured.score:.2f}  {seconds:.1f} s")

    def _prepare(self, photo: Path) -> InputImage:
        return prepare(self._model, photo.read_bytes(), self._folder.name(photo), self._settings)

    async def _measure(self, photo: Path, image: InputImage, number: int) -> MeasuredPhoto:
        def start(_: TrunkInput, outputs: Arrays) -> Progress[MeasuredPhoto]:
            read_mask = partial(self._read_mask, photo)
            return advance(measure_photo(image, outputs, self._questions, number, read_mask))

        progress = await self._model.run(partial(TrunkInput, image.pixels, self._outputs), start)
        return await drive(progress, self._model, self._workers.run)

    def _read_mask(self, photo: Path, size: tuple[int, int], target: int | None) -> ObjectMask | None:
        try:
            return self._folder.read_mask(photo, size, target)
        except PerceptError as error:
            _print_progress(f"the mask is not used: {error}")
            return None

    def _add(self, measured: MeasuredPhoto) -> None:
        self.count += 1
        for name, measurement in measured.measurements.items():
            self.measurements.setdefault(name, []).append(measurement)
        if len(self.shown) < SHEET_PHOTOS:
            self.shown.append(measured)


def _choose_methods(options: Namespace, model: Model, layer: str) -> tuple[list[str], dict[str, str]]:
    """The methods that the options name, or all that work at these layers; and why each other method is left out."""
    if options.methods:
        names = options.methods.split(",")
        if unknown := [name for name in names if name not in METHODS]:
            raise BadParameter(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}")
        return names, {}
    layers = find_layers(model, layer)
    left_out: dict[str, str] = {}
    for name, method in METHODS.items():
        reasons = filter(None, (unavailable_reason(model, layer, name) for layer in layers))
        if reason := next(reasons, None):
            left_out[name] = str(reason)
        elif method.needs == "image" and not options.all:
            left_out[name] = "slow; name it with --methods, or use --all"
    if len(left_out) == len(METHODS):
        raise BadParameter(f"no method works at {layer}: {next(iter(left_out.values()))}")
    return [name for name in METHODS if name not in left_out], left_out


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "percept evaluate",
        description="Measure over a folder of photos how faithful the maps of a model are, for every method.",
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle: <root>/<name>/<version>")
    parser.add_argument("folder", type=Path, help="folder of photos; its subfolders are searched too")
    parser.add_argument(
        "--methods", metavar="A,B", help="methods to measure; default: all that work at the layer, except slow ones"
    )
    parser.add_argument("--all", action="store_true", help="measure slow methods too")
    parser.add_argument("--layer", help="layer of the maps; a+b fuses two; default: the CAM layer of the model")
    parser.add_argument("--limit", type=_count, metavar="N", help="measure N photos, evenly spread over the folder")
    parser.add_argument(
        "--masks", type=Path, help="folder with <photo>.png for each photo; default: masks/ in the folder or beside it"
    )
    parser.add_argument("--out", type=Path, help="folder to write to; default: evaluation-<name>")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError("must be a whole number of at least 1")
    return int(text)


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
