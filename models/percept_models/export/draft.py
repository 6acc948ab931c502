"""A source and what was asked for → a trunk with all that its makers say of it: the draft of a bundle.

What was said wins over what is guessed. Torch networks come from `sources`, ONNX files from `foreign`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from percept.bundle.manifest import IMAGE, Activation, Precision, Preprocessing
from percept.errors import BundleError
from percept_models.graph.reader import Array, Graph, run
from percept_models.importer import network as foreign
from percept_models.importer.network import Foreign
from percept_models.sources import libraries
from percept_models.sources.trunk import candidates, trace
from percept_models.verify.checks import Answer, Truth

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """What is asked for; None and empty is left to the source.

    `preprocessing` holds the fields of `Preprocessing` that were said, `weights` is `default`, `none` or a file,
    `output` the tensor of an ONNX file that holds the logits, `calibration` a folder of photos like those to come,
    `tf32` whether a GPU may round float32.
    """

    source: str
    name: str
    version: int = 1
    out: Path = Path("models/repository")
    weights: str = "default"
    labels: Path | None = None
    layers: tuple[str, ...] = ()
    cam_layer: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    activation: Activation | None = None
    background: int | None = None
    output: str | None = None
    license: str | None = None
    precision: Precision = "float32"
    calibration: Path | None = None
    tf32: bool = False


@dataclass(frozen=True)
class Draft:
    """A trunk, the truth that it must keep to, and what is known of both.

    `nesting` are the tensors that may be tapped, with how deep their modules lie; `labels` may be empty, and
    `activation` None where the source does not say.
    """

    trunk: ModelProto
    truth: Truth
    nesting: Mapping[str, int]
    preprocessing: Preprocessing
    weights: str
    license: str = "not stated"
    labels: tuple[str, ...] = ()
    activation: Activation | None = None


def draw(wish: Wish, say: Say) -> Draft:
    """Open the source and write down its trunk; raises `BundleError` or `ValueError` with the reason if it cannot."""
    return _from_file(wish, say) if is_file(wish.source) else _from_torch(wish, say)


def is_file(source: str) -> bool:
    """Whether a source is an ONNX file, and no torch network."""
    return source.endswith(".onnx") or Path(source).is_file()


def file_answer(file: Path, how: Preprocessing) -> Answer:
    """The truth that an ONNX file holds: the logits of its own graph for pictures prepared so."""
    return _answer(foreign.read(file, (how.height, how.width)), how)


def merged(guess: Preprocessing, said: Mapping[str, Any]) -> Preprocessing:
    """The guess with all that was said; the short side before a crop grows with the size."""
    whole = guess.model_dump() | dict(said)
    if whole["resize"] != "crop":
        whole["short_side"] = None
    elif "short_side" not in said:
        longest = max(whole["height"], whole["width"])
        before = guess.short_side / max(guess.height, guess.width) if guess.short_side else 1.0
        whole["short_side"] = max(round(longest * before), longest)
    return Preprocessing(**whole)


def _from_torch(wish: Wish, say: Say) -> Draft:
    source = libraries.load(wish.source, wish.weights)
    how = merged(source.preprocessing, wish.preprocessing)
    layers = dict.fromkeys([*wish.layers, *filter(None, [wish.cam_layer])] if wish.layers else [], 0)
    say(f"network        {type(source.network).__name__}; tracing it")
    try:
        nesting = layers or candidates(source.network, how)
        trunk = trace(source.network, how, list(dict.fromkeys([IMAGE, *nesting])))
    except ValueError:
        raise
    except Exception as error:  # torch raises what it likes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(f"torch cannot export the network at {how.height} x {how.width}: {reason}") from error
    return Draft(trunk, source.network, nesting, how, source.weights, source.license, source.labels)


def _from_file(wish: Wish, say: Say) -> Draft:
    file = Path(wish.source)
    if wish.weights != "default":
        raise BundleError(f"{file.name} has its own weights: --weights is for torch networks")
    height, width = wish.preprocessing.get("height"), wish.preprocessing.get("width")
    found = foreign.read(file, (height, width) if height and width else None, wish.output)
    for note in found.notes:
        say(f"changed        {note}")
    how = merged(Preprocessing(height=found.size[0], width=found.size[1]), wish.preprocessing)
    trunk = foreign.trunk(found, how)
    return Draft(
        trunk=trunk,
        truth=_answer(found, how),
        nesting=dict.fromkeys(Graph(trunk).producer, 0),
        preprocessing=how,
        weights=f"those in {file.name}",
        activation=found.activation,
    )


def _answer(found: Foreign, how: Preprocessing) -> Answer:
    """The logits of the file's own graph, the pixels normalised before it by NumPy."""
    (image,) = found.model.graph.input

    def answer(pixels: Array) -> dict[str, Array]:
        x = pixels[..., ::-1] if how.channels == "BGR" else pixels
        x = (x.astype(np.float32) - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)
        return run(found.model, {image.name: x if found.layout == "NHWC" else x.transpose(0, 3, 1, 2)})

    return answer
