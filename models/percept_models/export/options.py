"""The options of `percept export`: parsed from the command line into one frozen `ExportOptions`.

The arguments of the command come in; an `ExportOptions` leaves. Options without a value are None or empty: the source
decides them later. This module loads no source.
"""

from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, get_args

from percept.bundle.manifest import Activation, Precision
from percept.bundle.preprocessing import Preprocessing

PRECISIONS: Mapping[str, Precision] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
EXAMPLES = """\
SOURCE is one of
  torchvision:resnet50, timm:xception41, smp:FPN?encoder_name=resnet34&classes=5
  module.path:factory         any function of yours that returns an nn.Module; modules in the working directory
                              come before installed ones
  path/to/network.onnx        any ONNX file of a network
  path/to/bundle/1            a bundle, with --precision

Percept guesses the options that you leave out from the source, and prints every guess.
"""


@dataclass(frozen=True)
class ExportOptions:
    """What the user requests of an export; the source decides each field that is None or empty.

    The bundle becomes `<out>/<name>/<version>`. `preprocessing` holds the fields of `Preprocessing` that the user
    gave, `weights` is `default`, `none` or a file, `output` is the output of several that holds the logits,
    `calibration` a folder of photos like those that will be served, and `tf32` lets a GPU round float32 to TF32.
    """

    source: str
    name: str
    out: Path
    version: int = 1
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


def parse_options(arguments: Sequence[str], default_out: Path) -> ExportOptions:
    """Parse the arguments; exits with status 2 and a usage message if they are invalid.

    `default_out` is the folder of bundles that is used without `--out`.
    """
    parsed = _create_parser(default_out).parse_args(arguments)
    return ExportOptions(
        source=parsed.source,
        name=parsed.name,
        out=parsed.out,
        version=parsed.version,
        weights=parsed.weights,
        labels=parsed.labels,
        layers=tuple(parsed.layers),
        cam_layer=parsed.cam_layer,
        preprocessing=given_preprocessing(parsed),
        activation=parsed.activation,
        background=parsed.background,
        output=parsed.output,
        license=parsed.license,
        precision=PRECISIONS[parsed.precision],
        calibration=parsed.calibrate,
        tf32=parsed.tf32,
    )


def parse_preprocessing(arguments: Sequence[str]) -> dict[str, Any]:
    """The fields of `Preprocessing` that options such as `--mean 0.5 --std 0.5` give."""
    parser = ArgumentParser()
    add_preprocessing_options(parser)
    return given_preprocessing(parser.parse_args(arguments))


def add_out_option(parser: ArgumentParser, default: Path) -> None:
    """Add `--out`, the folder of bundles that a command writes to."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=default,
        help="the folder of bundles to write to; the default is the folder that percept serve reads, PERCEPT_MODELS or "
        "the built-in bundles: %(default)s",
    )


def _create_parser(default_out: Path) -> ArgumentParser:
    parser = ArgumentParser(
        "percept export",
        description="Export a network as a verified bundle.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="the network to export: see below")
    parser.add_argument("--name", required=True, help="the name of the model")
    parser.add_argument("--version", type=int, default=1, help="the version of the bundle (default: 1)")
    add_out_option(parser, default_out)
    add_weights_option(parser)
    parser.add_argument("--license", help="the license of the weights, written into the manifest")
    _add_network_options(parser)
    add_preprocessing_options(parser)
    _add_precision_options(parser)
    return parser


def add_weights_option(parser: ArgumentParser) -> None:
    """Add `--weights`, the weights that a torch network gets."""
    parser.add_argument(
        "--weights", default="default", help="default (those of the source), none (random) or a file with a state dict"
    )


def _add_network_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("the outputs of the network")
    group.add_argument(
        "--labels", type=Path, help="the labels: one on each line, CSV of index and name, JSON or YAML (list or object)"
    )
    group.add_argument(
        "--activation",
        choices=get_args(Activation),
        help="the function from logits to scores (default: that at the end of the network, else softmax)",
    )
    group.add_argument("--background", type=int, help="the background class of a segmenter")
    group.add_argument("--layers", nargs="+", default=(), metavar="LAYER", help="the layers to tap, with gradients")
    group.add_argument("--cam-layer", metavar="LAYER", help="the layer that /cam explains by default")
    group.add_argument(
        "--output",
        metavar="NAME",
        help="the output that holds the classes, where the network has several: an index, key or field, such as 0, "
        "logits or heads.age, or any tensor of an ONNX file",
    )


def add_preprocessing_options(parser: ArgumentParser) -> None:
    """Add the options about a network's input, which `given_preprocessing` reads."""
    group = parser.add_argument_group("the input of the network")
    group.add_argument("--size", type=_parse_size, metavar="H[xW]", help="the size of the input in pixels")
    group.add_argument("--resize", choices=_choices("resize"), help="how a photo is resized to that size")
    group.add_argument("--crop", type=int, metavar="SIDE", help="scale the short side to SIDE and crop the centre")
    group.add_argument(
        "--resize-size",
        type=_parse_resize_size,
        metavar="H[xW]|none",
        help="resize the whole photo to this size in whole pixels before the centre is cropped or padded, exactly as "
        "torchvision and timm do; none resamples once instead, which is faster",
    )
    group.add_argument("--fill", type=_parse_colour, metavar="R,G,B", help="the colour around a photo that is padded")
    group.add_argument("--interpolation", choices=_choices("interpolation"), help="the interpolation of the resize")
    group.add_argument(
        "--channels",
        choices=_choices("channels"),
        type=str.upper,
        help="what the network takes: grey, colours in this order, or colours and alpha; their number is guessed from "
        "the network",
    )
    group.add_argument(
        "--mean",
        type=_parse_channels,
        metavar="A,B,C",
        help="the mean to subtract, one number or one per channel, in that order",
    )
    group.add_argument(
        "--std", type=_parse_channels, metavar="A,B,C", help="the standard deviation to divide by, in the same form"
    )
    group.add_argument(
        "--range",
        type=int,
        choices=(1, 255),
        help="the value of white in the units of mean and std (default: 1 if no number exceeds 1, else 255)",
    )


def _add_precision_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("lower precision")
    group.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="the precision of the trunk (default: fp32)"
    )
    group.add_argument("--tf32", action="store_true", help="allow a GPU to round float32 to TF32, in gradients too")
    group.add_argument(
        "--calibrate", type=Path, metavar="FOLDER", help="for int8: a folder of photos like those that will be served"
    )


def _choices(name: str) -> tuple[str, ...]:
    """The values that a field of `Preprocessing` may have."""
    return get_args(Preprocessing.model_fields[name].annotation)


def given_preprocessing(parsed: Namespace) -> dict[str, Any]:
    """The fields of `Preprocessing` that were given as options; mean and std in units of 0..255."""
    given: dict[str, Any] = {}
    if parsed.size:
        given["height"], given["width"] = parsed.size
    if parsed.crop:
        given |= {"resize": "crop", "short_side": parsed.crop}
    if parsed.resize_size:
        given["resize_size"] = parsed.resize_size if all(parsed.resize_size) else None
    for name in ("resize", "interpolation", "channels", "fill"):
        if getattr(parsed, name):
            given[name] = getattr(parsed, name)
    numbers = {name: getattr(parsed, name) for name in ("mean", "std") if getattr(parsed, name)}
    small = all(abs(v) <= 1 for values in numbers.values() for v in values)
    scale = 255 // (parsed.range or (1 if small else 255))
    return given | {name: tuple(scale * v for v in values) for name, values in numbers.items()}


def _parse_size(text: str) -> tuple[int, int]:
    """`224` or `480x640`, height first."""
    parts = [int(part) if part.isdecimal() else 0 for part in text.lower().split("x")]
    if len(parts) not in (1, 2) or min(parts) < 1:
        raise ArgumentTypeError(f"{text!r} is not a size: write 224, or 480x640 (height x width)")
    return parts[0], parts[-1]


def _parse_resize_size(text: str) -> tuple[int, int]:
    """A size, or (0, 0) for `none`."""
    return (0, 0) if text == "none" else _parse_size(text)


def _parse_colour(text: str) -> tuple[int, ...]:
    """`124,116,104`: red, green and blue from 0 to 255."""
    parts = text.replace(",", " ").split()
    values = tuple(int(part) for part in parts if part.isdecimal())
    if not len(values) == len(parts) == 3 or max(values) > 255:
        raise ArgumentTypeError(f"{text!r} is not a colour: write R,G,B, three numbers from 0 to 255")
    return values


def _parse_channels(text: str) -> tuple[float, ...]:
    """One number for all channels, or one for each of three or four."""
    try:
        values = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        values = ()
    if len(values) not in (1, 3, 4) or not all(map(isfinite, values)):
        raise ArgumentTypeError(f"{text!r} is not one number, or one for each channel")
    return values
