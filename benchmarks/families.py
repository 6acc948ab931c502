"""`python benchmarks/families.py [TEXT ...] [--jobs N]`: what the export makes of 300 networks.

Each network is exported as `percept export` does and served from its bundle. The reference is the network itself in its
own framework, in float64, on the same photos, through the framework's own preprocessing. The output is the table of
`docs/models.md`; the exit status is 1 if a network is served wrongly, refused without need, or served and not refused.
Weights are random: the table shows that a bundle computes what the framework computes, not how accurate a network is.
With TEXT only the networks are tried whose name contains one of the texts.
"""

import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from urllib.parse import urlencode

import numpy as np
import torch
from PIL import Image

# For the package `benchmarks`, and so that the export finds the source `benchmarks.harness.references:create_made_up`.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness.files import FILES
from benchmarks.harness.made_up import SIZE
from benchmarks.harness.made_up_table import MADE_UP
from benchmarks.harness.references import MADE_UP_PREFIX, find_reference
from benchmarks.harness.report import format_row, format_table
from benchmarks.harness.workspace import PHOTOS, open_workspace, photo_files
from benchmarks.harness.zoo import LIBRARY_NETWORKS
from percept.bundle.manifest import Activation
from percept.errors import BundleError
from percept.imaging.decode import decode_reduced
from percept.imaging.geometry import Map
from percept.imaging.preprocess import prepare
from percept.runtime.cpu_count import count_cpus
from percept.runtime.network import Network, TrunkInput
from percept_models.export.convert import convert
from percept_models.export.options import ExportOptions

HEADINGS = ("network", "outcome", "error", "torch's", "top class", "CAM layer", "layers", "s")
# Of the difference of scores, relative to the range of the scores over classes and photos. Twice the error of torch's
# own float32 is allowed too, because random networks may amplify rounding, up to the second limit.
LIMIT, ROUNDING_LIMIT = 1e-3, 0.1
PHOTOS_TRIED = 4
NETWORKS_PER_PROCESS = 12  # a process is replaced after so many, because torch's exporter keeps memory


@dataclass(frozen=True)
class Outcome:
    """What became of one network; `passed` is what the table should say of every network."""

    name: str
    outcome: str
    passed: bool
    error: float | None = None
    rounding: float | None = None
    agreement: str = ""
    cam_layer: str = ""
    layers: str = ""
    seconds: float = 0.0


def names() -> list[str]:
    """The names of all networks."""
    return [*LIBRARY_NETWORKS, *FILES, *(f"{MADE_UP_PREFIX}{name}" for name in MADE_UP)]


def try_network(name: str, photos: Sequence[Path]) -> Outcome:
    """Export one network and compare the scores of its bundle with the framework's."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    made_up = MADE_UP.get(name.removeprefix(MADE_UP_PREFIX))
    must_refuse = made_up.refused if made_up else None
    start = perf_counter()
    try:
        with TemporaryDirectory() as scratch:
            folder = convert(_export_options(name, Path(scratch)), lambda _: None)
            if must_refuse:
                return Outcome(name, f"NOT REFUSED: {must_refuse}", passed=False)
            seconds = perf_counter() - start
            only_class = made_up is not None and made_up.only_class
            return _compare(name, Network(folder, "cpu", threads=1), photos, only_class, seconds)
    except BundleError as error:
        rightly = must_refuse is not None and must_refuse in str(error)
        return Outcome(name, f"{'refused' if rightly else 'WRONGLY REFUSED'}: {error}", rightly)
    except Exception as error:  # whatever it is, the other networks are tried
        return Outcome(name, f"FAILED: {type(error).__name__}: {error}", passed=False)


def _export_options(name: str, out: Path) -> ExportOptions:
    """The options with which a user exports the network."""
    if name in FILES:
        return ExportOptions(source=str(FILES[name].path), name="network", out=out, **FILES[name].options)
    if not name.startswith(MADE_UP_PREFIX):
        return ExportOptions(source=name, name="network", out=out, weights="none")
    key = name.removeprefix(MADE_UP_PREFIX)
    row = MADE_UP[key]
    preprocessing: dict[str, object] = {"height": SIZE, "width": SIZE}
    if row.channels in (1, 3, 4):
        preprocessing |= {"mean": (127.5,) * row.channels, "std": (63.75,) * row.channels}
    return ExportOptions(
        source=f"benchmarks.harness.references:create_made_up?{urlencode({'name': key})}",
        name="network",
        out=out,
        preprocessing=preprocessing,
        **dict(row.options or {}),
    )


def _compare(name: str, network: Network, photos: Sequence[Path], only_class: bool, seconds: float) -> Outcome:
    """Compare a bundle with its reference in float64 on the photos, and torch's own float32 with it too."""
    manifest = network.manifest
    found = [_served_scores(network, photo.read_bytes()) for photo in photos]
    expected, rounded = (_reference_scores(name, photos, dtype) for dtype in (torch.float64, torch.float32))
    if only_class:
        found = [np.asarray(scores == scores.max(0), np.float32) for scores in found]
    error, rounding = _difference(found, expected), _difference(rounded, expected)
    agreement = [float((f.argmax(0) == e.argmax(0)).mean()) for f, e in zip(found, expected, strict=True)]
    passed = error <= max(LIMIT, min(2 * rounding, ROUNDING_LIMIT))
    shape = "x".join(map(str, next(one for one in manifest.layers if one.name == manifest.cam_layer).shape))
    with_gradients = sum(layer.tail is not None for layer in manifest.layers)
    return Outcome(
        name,
        "exported" if passed else "WRONG SCORES",
        passed,
        error,
        rounding,
        f"{np.mean(agreement):.1%}",
        f"`{manifest.cam_layer}` {shape}",
        f"{with_gradients} of {len(manifest.layers)}",
        seconds,
    )


def _reference_scores(name: str, photos: Sequence[Path], dtype: torch.dtype) -> list[Map]:
    """Scores of every photo; in float32 where the network casts to it itself."""
    try:
        reference = find_reference(name, dtype)
        return [reference(Image.open(photo).convert("RGB")) for photo in photos]
    except RuntimeError:
        if dtype == torch.float32:
            raise
        return _reference_scores(name, photos, torch.float32)


def _difference(found: Sequence[Map], expected: Sequence[Map]) -> float:
    """The greatest difference of a score, relative to the range of all scores; infinite where all are the same."""
    scale = max(float(np.ptp(scores, 0).max()) for scores in expected)
    if not scale or any(f.shape != e.shape for f, e in zip(found, expected, strict=True)):
        return inf
    return max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True)) / scale


def _served_scores(network: Network, data: bytes) -> Map:
    """Scores [K] or [K,h,w] of an encoded photo, from the logits that the service computes.

    In float64: random networks may give nearly the same score to all classes, which float32 would round away.
    """
    manifest = network.manifest
    photo, geometry = decode_reduced(manifest.preprocessing, data, len(data), 10**9)
    pixels = prepare(photo, geometry, manifest.preprocessing)
    (outputs,) = network.run_trunk([TrunkInput(pixels, frozenset({"logits"}))])
    return _activate(outputs["logits"].astype(np.float64), manifest.activation)


def _activate(logits: Map, activation: Activation) -> Map:
    """Scores from logits along the first axis, in the precision of the logits."""
    if activation == "softmax":
        powers = np.exp(logits - logits.max(0))
        return np.asarray(powers / powers.sum(0))
    return np.asarray(1 / (1 + np.exp(-logits))) if activation == "sigmoid" else logits


def _cells(row: Outcome) -> tuple[str, ...]:
    outcome = " ".join(row.outcome.split()).replace("|", "\\|")
    error, rounding = ("" if one is None else f"{one:.0e}" for one in (row.error, row.rounding))
    time = f"{row.seconds:.0f}" if row.seconds else ""
    return f"`{row.name}`", outcome, error, rounding, row.agreement, row.cam_layer, row.layers, time


def main() -> None:
    """Print each row of the table when its network was tried, and count the outcomes at the end."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="try only networks with one of these in their names")
    parser.add_argument("--jobs", type=int, default=count_cpus(), help="networks tried at once (default: one a core)")
    parser.add_argument("--photos", type=Path, default=PHOTOS, metavar="FOLDER", help="JPEGs (default: %(default)s)")
    options = parser.parse_args()
    chosen = [name for name in names() if not options.texts or any(text in name for text in options.texts)]
    with open_workspace(options.photos) as workspace:
        photos = photo_files(workspace)
        tried = photos[:: max(1, len(photos) // PHOTOS_TRIED)][:PHOTOS_TRIED]
        print(format_table(HEADINGS, ()))
        with get_context("spawn").Pool(options.jobs, maxtasksperchild=NETWORKS_PER_PROCESS) as pool:
            rows = []
            for row in pool.imap(partial(try_network, photos=tried), chosen):
                rows.append(row)
                print(format_row(_cells(row)), flush=True)
    failed = [row.name for row in rows if not row.passed]
    refused = sum(row.passed and row.outcome.startswith("refused") for row in rows)
    exported = len(rows) - refused - len(failed)
    print(f"\n{len(rows)} networks: {exported} exported, {refused} refused rightly, {len(failed)} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
