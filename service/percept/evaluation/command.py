"""`percept evaluate`: how far the methods can be trusted with a model, measured over a folder of photos.

A photo goes the way that it goes in the service, only without HTTP: the same decoding, queue and `Explainer`. Beside
the methods stand two maps that know nothing of the network, `random` and `centre`, as what a method has to beat.
"""

import asyncio
import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from percept.errors import BadParameter, PerceptError
from percept.evaluation.photos import Gallery, Truth
from percept.evaluation.table import Row, Verdict, located, markdown, plain, rows
from percept.explain.judge import check, judged, scorer
from percept.explain.maps import resized, unit
from percept.explain.methods import METHODS
from percept.explain.question import Explainer, Question, fault, find_layer
from percept.imaging.decode import Map
from percept.imaging.overlay import overlay
from percept.imaging.sheet import Tile, sheet
from percept.runtime.cpu_count import cores
from percept.runtime.execution_plan import crews, plan
from percept.runtime.model import Model, load
from percept.runtime.network import Look
from percept.settings import Settings
from percept.tasks.input_image import View, see

PHOTOS = 6  # on the sheet, the first
PIXELS = 640  # the longer side of a photo on the sheet
COLORMAP, ALPHA = "inferno", 0.75
GRID = 7  # of the random map
NOTE = """Mean over the photos ± its standard error, of the top class of each; ms is the median, from the layer to the
map. Deletion and insertion are areas under the curve of the score as the hottest pixels go first, or come first into
the blurred image. The maps in italics know nothing of the network: where they win, a method has shown nothing."""


def _random(number: int, shape: tuple[int, int]) -> Map:
    """A grid of 7 x 7 random numbers, another for every photo and the same every time, enlarged: [H,W]."""
    return unit(resized(np.random.default_rng(number).random((GRID, GRID), np.float32), shape))


def _centre(number: int, shape: tuple[int, int]) -> Map:
    """exp(-2 r^2), r the distance from the middle in halves of the sides: [H,W]."""
    y, x = (np.square(np.linspace(-1, 1, n, dtype=np.float32)) for n in shape)
    return unit(np.exp(-2 * (y[:, None] + x)))


BASELINES: Mapping[str, Callable[[int, tuple[int, int]], Map]] = {"random": _random, "centre": _centre}


@dataclass(frozen=True, eq=False)
class Seen:
    """A photo with its top class, and by method or baseline the map and the verdict on it."""

    view: View
    label: str
    score: float
    heats: Mapping[str, Map]
    verdicts: Mapping[str, Verdict]


def evaluate(arguments: list[str]) -> int:
    """`percept evaluate BUNDLE FOLDER …`: writes table.md, table.json and sheet.png, and prints the table."""
    asked = _parser().parse_args(arguments)
    settings = Settings()
    threads = settings.threads or cores()
    how = plan(settings, threads)
    staff = crews(how, threads)
    model = load(asked.bundle, how, staff)
    try:
        print(asyncio.run(_Evaluation(asked, model, settings).run()))
    except OSError as error:
        raise PerceptError(str(error)) from error
    finally:
        staff.close()
    return 0


class _Evaluation:
    """One run of the command."""

    def __init__(self, asked: Namespace, model: Model, settings: Settings) -> None:
        """Raises `PerceptError` where a method, the layer or the folder cannot be used."""
        self.model, self.settings, self.manifest = model, settings, model.manifest
        check(self.manifest)
        self.out: Path = asked.out or Path(f"evaluation-{self.manifest.name}")
        self.gallery = Gallery(asked.folder, asked.masks, [self.out])
        self.photos = self.gallery.some(asked.limit)
        self.layer: str = asked.layer or self.manifest.cam_layer
        self.left_out: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        group = tuple(self.layer.split("+"))
        names = asked.methods.split(",") if asked.methods else self._usable(group, asked.all)
        if unknown := [name for name in names if name not in METHODS]:
            raise BadParameter(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}")
        self.explainers = {name: Explainer(model, Question((name,), (group,))) for name in names}

    async def run(self) -> str:
        """Look at every photo and write all files; gives what is to be printed."""
        self.out.mkdir(parents=True, exist_ok=True)
        for name, why in self.left_out.items():
            _say(f"left out: {name}, {why}")
        shown: list[Seen] = []
        verdicts: dict[str, list[Verdict]] = {name: [] for name in (*self.explainers, *BASELINES)}
        for number, photo in enumerate(self.photos, 1):
            if (seen := await self._met(photo, number)) is None:
                continue
            for method, verdict in seen.verdicts.items():
                verdicts[method].append(verdict)
            if len(shown) < PHOTOS:
                shown.append(seen)
        if not shown:
            raise PerceptError(f"every photo of {self.gallery.folder} is broken")
        return self._written(rows(verdicts), shown)

    async def _met(self, photo: Path, number: int) -> Seen | None:
        """A photo looked at, or None where it is broken; says which."""
        start, name = perf_counter(), self.gallery.name(photo)
        place = f"{number}/{len(self.photos)}  {name}"
        try:
            data = photo.read_bytes()
            view = await asyncio.to_thread(see, self.model, data, name, self.settings)
        except (PerceptError, OSError) as error:
            self.skipped[name] = str(error)
            _say(f"{place} is skipped: {error}")
            return None
        seen = await self._look(photo, view, number)
        _say(f"{place}  {seen.label} {seen.score:.2f}  {perf_counter() - start:.1f} s")
        return seen

    async def _look(self, photo: Path, view: View, number: int) -> Seen:
        """All maps of the top class of a photo, and how far each can be trusted."""
        outputs = frozenset[str]().union(*(explainer.outputs for explainer in self.explainers.values()))
        look = Look(view.pixels, outputs | {"logits"})
        _, row = await self.model.run(lambda: look)
        logits, task = row["logits"], view.task
        target = task.targets(self.manifest, logits, None)[0]
        score = scorer(self.manifest, task.seed(self.manifest, logits, target, None), target)
        truth = await asyncio.to_thread(self._truth, photo, view, target if task.cells else None)
        heats = {name: make(number, view.pixels.shape[:2]) for name, make in BASELINES.items()}
        seconds: dict[str, float] = {}
        for name, explainer in self.explainers.items():
            start = perf_counter()
            [one] = await explainer.answer(view, row, asyncio.to_thread)
            seconds[name], heats[name] = perf_counter() - start, one.heat
        verdicts = {}
        for name, heat in heats.items():
            trust = await judged(self.model, view.pixels, logits, heat, score, asyncio.to_thread)
            places = await asyncio.to_thread(located, heat, view.geometry, truth)
            verdicts[name] = Verdict(trust, seconds.get(name), *places)
        return Seen(view, self.manifest.labels[target], score(logits), heats, verdicts)

    def _truth(self, photo: Path, view: View, target: int | None) -> Truth | None:
        try:
            return self.gallery.truth(photo, view.geometry.size, target)
        except PerceptError as error:
            _say(f"without a mask: {error}")
            return None

    def _usable(self, group: tuple[str, ...], slow: bool) -> list[str]:
        """The methods that work at all these layers, without the slow ones unless they are wanted."""
        layers = [find_layer(self.model, name) for name in group]
        for name, method in METHODS.items():
            faults = filter(None, (fault(self.model, layer, name) for layer in layers))
            if found := next(faults, None):
                self.left_out[name] = str(found)
            elif method.needs == "image" and not slow:
                self.left_out[name] = "slow; name it, or give --all"
        if len(self.left_out) == len(METHODS):
            raise BadParameter(f"no method works at {self.layer}: {next(iter(self.left_out.values()))}")
        return [name for name in METHODS if name not in self.left_out]

    def _written(self, table: Mapping[str, Row], shown: Sequence[Seen]) -> str:
        """Write the files; gives the table with what it is about."""
        count = len(self.photos) - len(self.skipped)
        data = {
            "model": f"{self.manifest.name}/{self.manifest.version}",
            "layer": self.layer,
            "photos": count,
            "skipped": self.skipped,
            "left_out": self.left_out,
            "rows": plain(table, list(BASELINES)),
        }
        lines = [
            f"# {data['model']} at {self.layer}, {count} photo{'s' * (count > 1)}",
            markdown(table, list(BASELINES)),
            NOTE,
            *(f"Left out: {name}, {why}." for name, why in self.left_out.items()),
            *(f"Skipped: {name}, {why}." for name, why in self.skipped.items()),
        ]
        (self.out / "table.json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
        (self.out / "table.md").write_text("\n\n".join(lines) + "\n", "utf-8")
        _sheet(shown, list(table)).save(self.out / "sheet.png")
        return f"{lines[1]}\n\n{self.out / 'table.md'}, table.json and sheet.png are written"


def _sheet(shown: Sequence[Seen], names: Sequence[str]) -> Image.Image:
    """A row for each photo: the photo itself, then the map of every method."""
    tiles = []
    for seen in shown:
        factor = min(1.0, PIXELS / max(seen.view.geometry.size))
        view = seen.view.geometry.scaled(factor)
        small = seen.view.photo.resize((view.width, view.height), Image.Resampling.BICUBIC)
        tiles.append(Tile(small, f"{seen.label}, {seen.score:.2f}", seen.view.id))
        for name in names:
            drawn = overlay(small, seen.heats[name], view, COLORMAP, ALPHA)
            title = f"{name} (baseline)" if name in BASELINES else name
            tiles.append(Tile(drawn, title, seen.verdicts[name].faithfulness.areas))
    return sheet(tiles, len(names) + 1)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "percept evaluate",
        description="Measure over a folder of photos how far the methods can be trusted with a model.",
    )
    parser.add_argument("bundle", type=Path, help="the folder <root>/<name>/<version>")
    parser.add_argument("folder", type=Path, help="of photos, in subfolders too")
    parser.add_argument("--methods", metavar="A,B", help="default: all that work at the layer, but for slow ones")
    parser.add_argument("--all", action="store_true", help="slow methods too")
    parser.add_argument("--layer", help="a+b fuses two (default: the CAM layer of the model)")
    parser.add_argument("--limit", type=_count, metavar="N", help="so many photos, evenly spread over the folder")
    parser.add_argument("--masks", type=Path, help="<photo>.png for each (default: masks in the folder or beside it)")
    parser.add_argument("--out", type=Path, help="where to write (default: evaluation-<name>)")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError("a whole number from 1 on")
    return int(text)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
