"""From a source to a verified bundle: what `percept export` does.

In comes a `Wish`, in which everything may be left open but the source and the name; every guess is said. Out comes a
bundle that was compared with the network it was made of, or none.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper

from percept.bundle.manifest import IMAGE, MANIFEST, Layer, Manifest, Provenance, Task, read
from percept.errors import BundleError
from percept_models.export import precision
from percept_models.export.bundle_writer import export
from percept_models.export.draft import Draft, Say, Wish, draw, is_file
from percept_models.graph.reader import Array, Graph, Shape, run
from percept_models.graph.stages import suggest
from percept_models.sources.labels import chosen
from percept_models.sources.trunk import LOGITS, PIXELS
from percept_models.verify.checks import Answer, Truth, table, verify

TASKS: dict[int, Task] = {2: "classification", 4: "segmentation"}  # by the rank of the logits
KEPT = ("task", "labels", "activation", "preprocessing", "palette", "background")  # by a bundle of a bundle
COMPARED = 32  # photos on which fewer bits are compared with float32


def convert(wish: Wish, say: Say) -> Path:
    """Make the bundle and return its folder.

    Raises `BundleError` with the reason where the source cannot be had, does not fit what was said of it, or the
    bundle does not compute the same; then nothing is left behind.
    """
    target = wish.out / wish.name / str(wish.version)
    if target.exists():
        raise BundleError(f"{target} exists already: say --version {wish.version + 1}, or remove it")
    if (wish.precision == "int8") != (wish.calibration is not None):
        raise BundleError("--precision int8 and --calibrate FOLDER, with photos like those to come, need each other")
    try:
        if (Path(wish.source) / MANIFEST).is_file():
            return _reduced(wish, say)
        return _made(wish, say)
    except ValueError as error:  # of pydantic, or of what a network is not
        raise BundleError(" ".join(str(error).split())) from error


def _made(wish: Wish, say: Say) -> Path:
    """The bundle of a network."""
    draft = draw(wish, say)
    graph = Graph(draft.trunk)
    shape = graph.shapes[LOGITS]
    if len(shape) not in TASKS or None in shape[1:]:
        raise BundleError(f"logits of shape {_sizes(shape)} are neither [N,K] nor [N,K,h,w]")
    layers, cam_layer = _layers(wish, draft, graph)
    said: dict[str, Any] = {
        "task": TASKS[len(shape)],
        "labels": chosen(wish.labels, draft.labels, shape[1] or 0),
        "activation": wish.activation or draft.activation or "softmax",
        "preprocessing": draft.preprocessing,
        "tf32": wish.tf32,
    }
    said["background"] = _background(wish, said["task"], said["labels"])
    _tell(say, wish, draft, said)
    for layer in layers:
        option = None if wish.layers or layer == IMAGE else "--layers"
        say(_line("layer", f"{layer} {_sizes(graph.shapes[layer][1:])}", option))
    say(_line("CAM layer", cam_layer, "--cam-layer" if not wish.cam_layer else None))
    source = Path(wish.source).name if is_file(wish.source) else wish.source
    license = wish.license or draft.license
    said["provenance"] = Provenance(source=source, weights=draft.weights, license=license)
    return _write(wish, draft.trunk, layers, cam_layer, draft.truth, said, say)


def _reduced(wish: Wish, say: Say) -> Path:
    """The bundle of a bundle, in fewer bits."""
    folder = Path(wish.source)
    manifest = read(folder)
    if wish.precision == "float32" or manifest.precision != "float32":
        raise BundleError(f"{folder} is a bundle in {manifest.precision}: one in float32 can get another --precision")
    if wish.preprocessing or wish.labels or wish.activation or wish.weights != "default":
        raise BundleError(
            "of a bundle only --name, --version, --cam-layer, --layers, --precision and --tf32 can be other"
        )
    say(_line("source", f"{manifest.name}/{manifest.version}, a bundle"))
    said = {name: getattr(manifest, name) for name in KEPT} | {"tf32": wish.tf32 or manifest.tf32}
    said["provenance"] = manifest.provenance.model_copy(update={"metrics": {}})  # they were the other's
    layers = [layer.name for layer in manifest.layers]
    if unknown := {*wish.layers, wish.cam_layer or manifest.cam_layer} - set(layers):
        raise BundleError(f"the bundle has no layer {min(unknown)!r}; it has {', '.join(layers)}")
    trunk = onnx.load(folder / manifest.trunk)
    return _write(wish, trunk, layers, wish.cam_layer or manifest.cam_layer, None, said, say)


def _write(
    wish: Wish, trunk: ModelProto, layers: Sequence[str], cam_layer: str, truth: Truth, said: dict[str, Any], say: Say
) -> Path:
    """Export and verify; what is in fewer bits is compared with the trunk in float32."""
    pictures = list(precision.pictures(wish.calibration, said["preprocessing"])) if wish.calibration else []
    if pictures:
        say(_line("calibration", f"{len(pictures)} photos"))
    compared = np.stack(pictures[:: -(-len(pictures) // COMPARED)]) if pictures else None
    lower = _lower(wish, pictures)

    def check(folder: Path) -> None:
        """Print the proof, and let nothing pass that fails."""
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        say(_line("bundle", f"{size:.1f} MB, {wish.precision}{', TF32' if said['tf32'] else ''}; verifying it"))
        checks = verify(folder, answer(trunk, read(folder)) if lower else truth, compared)
        say(table(checks))
        if not all(one.passed for one in checks):
            lost = f"too much is lost in {wish.precision}" if lower else "the bundle does not compute the same"
            raise BundleError(f"{lost}: see what failed above")

    return export(
        trunk,
        name=wish.name,
        version=wish.version,
        layers=layers,
        cam_layer=cam_layer,
        out=wish.out,
        gradients=None if lower is None else {*wish.layers, cam_layer},
        precision=wish.precision,
        lower=lower,
        check=check,
        **said,
    )


def answer(trunk: ModelProto, manifest: Manifest) -> Answer:
    """The truth that a trunk holds: its logits, and all that the tails of a bundle need."""

    def needs(layer: Layer) -> tuple[str, ...]:
        return layer.name, *(layer.tail.crossing if layer.tail else ())

    copy = ModelProto()
    copy.CopyFrom(trunk)
    wanted = {name for layer in manifest.layers for name in needs(layer)} - {v.name for v in copy.graph.output}
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sorted(wanted))
    return lambda pixels: run(copy, {PIXELS: pixels})


def _lower(wish: Wish, pictures: Sequence[Array]) -> Callable[[ModelProto], ModelProto] | None:
    """How a trunk gets the precision that was asked for."""
    if wish.precision == "int8":
        return partial(precision.quantized, pictures=pictures)
    return precision.half if wish.precision == "float16" else None


def _layers(wish: Wish, draft: Draft, graph: Graph) -> tuple[list[str], str]:
    """The layers to tap, the image before them, and the one for CAM, as named or suggested."""
    layers = list(wish.layers) or suggest(graph, TASKS[len(graph.shapes[LOGITS])], draft.nesting)
    if wish.cam_layer and wish.cam_layer not in layers:
        layers.append(wish.cam_layer)
    if not layers:
        raise BundleError("no feature map was found to tap: name some with --layers")
    maps = [
        name for name in draft.nesting if len(graph.shapes.get(name, ())) == 4 and None not in graph.shapes[name][1:]
    ]
    if unknown := [layer for layer in layers if layer not in (IMAGE, *maps)]:
        raise BundleError(f"there is no feature map {unknown[0]!r}; the last ones are {', '.join(maps[-20:])}")
    return list(dict.fromkeys([IMAGE, *layers])), wish.cam_layer or layers[-1]


def _background(wish: Wish, task: Task, labels: Sequence[str]) -> int | None:
    """The class that is no thing: as said, else the first if it is called so."""
    if wish.background not in (None, *range(len(labels))):
        raise BundleError(f"the background {wish.background} is not a class: there are 0 to {len(labels) - 1}")
    if wish.background is not None:
        return wish.background
    return 0 if task == "segmentation" and labels[0].strip("_").lower() == "background" else None


def _tell(say: Say, wish: Wish, draft: Draft, said: dict[str, Any]) -> None:
    """Say what the bundle will be, and by which option what was guessed can be said otherwise."""
    how, labels, asked = draft.preprocessing, said["labels"], wish.preprocessing
    shown = ", ".join(labels[:4]) + (", ..." if len(labels) > 4 else "")
    rule = f"crop after scaling the short side to {how.short_side}" if how.resize == "crop" else how.resize
    lines = (
        ("weights", draft.weights, None),
        ("license", wish.license or draft.license, None if wish.license else "--license"),
        ("task", f"{said['task']}, {said['activation']}", None if wish.activation else "--activation"),
        ("size", f"{how.height} x {how.width}", None if "height" in asked else "--size"),
        ("resize", f"{rule}, {how.interpolation}", None if "resize" in asked else "--resize, --crop"),
        ("channels", how.channels, None if "channels" in asked else "--channels"),
        ("mean", _numbers(how.mean), None if "mean" in asked else "--mean"),
        ("std", _numbers(how.std), None if "std" in asked else "--std"),
        ("labels", f"{len(labels)}: {shown}", None if wish.labels else "--labels"),
    )
    for line in lines:
        say(_line(*line))
    if said["background"] is not None:
        say(_line("background", labels[said["background"]], None if wish.background is not None else "--background"))


def _line(what: str, value: str, option: str | None = None) -> str:
    return f"{what:<14} {value}" + (f"  (guessed: {option})" if option else "")


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.6g}" for v in values)


def _sizes(shape: Shape) -> str:
    return "x".join("N" if size is None else str(size) for size in shape)
