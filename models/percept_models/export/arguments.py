"""The words of `percept export` → a `Wish`."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from percept_models.export.draft import Wish

REPOSITORY = Path("models/repository")
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
EXAMPLES = """\
SOURCE is one of
  torchvision:resnet50, timm:xception41, smp:FPN?encoder_name=resnet34&classes=5
  module.path:factory         any function of yours that returns an nn.Module
  path/to/network.onnx        anyone's ONNX file
  path/to/bundle/1            a bundle, with --precision

What is not said is guessed from the source, and every guess is printed.
"""


def wish(arguments: Sequence[str]) -> Wish:
    """Read the arguments; leaves with status 2 and a usage message where they make no sense."""
    asked = _parser().parse_args(arguments)
    return Wish(
        source=asked.source,
        name=asked.name,
        version=asked.version,
        out=asked.out,
        weights=asked.weights,
        labels=asked.labels,
        layers=tuple(asked.layers),
        cam_layer=asked.cam_layer,
        preprocessing=_preprocessing(asked),
        activation=asked.activation,
        background=asked.background,
        output=asked.output,
        license=asked.license,
        precision={"fp32": "float32", "fp16": "float16", "int8": "int8"}[asked.precision],  # type: ignore[arg-type]
        calibration=asked.calibrate,
        tf32=asked.tf32,
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "percept export",
        description="Make a verified bundle of a network.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="where the network comes from: see below")
    parser.add_argument("--name", required=True, help="what the model will be called")
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--out", type=Path, default=REPOSITORY, help=f"the folder of bundles (default {REPOSITORY})")
    parser.add_argument("--weights", default="default", help="default, none (random) or a file with a state dict")
    parser.add_argument("--license", help="of the weights, as the manifest states it")
    network = parser.add_argument_group("what the network gives")
    network.add_argument("--labels", type=Path, help="a JSON list, a JSON object by index, or one to a line")
    network.add_argument("--activation", choices=("softmax", "sigmoid", "none"), help="from logits to scores")
    network.add_argument("--background", type=int, help="the class of a segmenter that is no thing")
    network.add_argument("--layers", nargs="+", default=(), metavar="LAYER", help="feature maps to tap, with gradients")
    network.add_argument("--cam-layer", metavar="LAYER", help="the layer that /cam explains unless asked otherwise")
    network.add_argument(
        "--output", metavar="TENSOR", help="where an ONNX file has its logits, if it has several outputs"
    )
    image = parser.add_argument_group("what the network takes")
    image.add_argument("--size", type=_size, metavar="H[xW]", help="of the input, in pixels")
    image.add_argument("--resize", choices=("squeeze", "crop", "pad"), help="how a photo comes to that size")
    image.add_argument("--crop", type=int, metavar="SIDE", help="scale the short side to SIDE and cut out the middle")
    image.add_argument("--interpolation", choices=INTERPOLATIONS)
    image.add_argument("--channels", choices=("RGB", "BGR"), type=str.upper, help="the order that the network wants")
    image.add_argument("--mean", type=_numbers, metavar="A,B,C", help="subtracted, in that order")
    image.add_argument("--std", type=_numbers, metavar="A,B,C", help="divided by, in that order")
    image.add_argument(
        "--range",
        type=int,
        choices=(1, 255),
        help="what white is where mean and std are meant (default: 1 if no number is beyond 1, else 255)",
    )
    bits = parser.add_argument_group("smaller and faster")
    bits.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of the trunk")
    bits.add_argument("--tf32", action="store_true", help="let a GPU round float32, that of gradients too, to TF32")
    bits.add_argument("--calibrate", type=Path, metavar="FOLDER", help="photos like those to come, for int8")
    return parser


def _preprocessing(asked: Namespace) -> dict[str, Any]:
    """The fields of `Preprocessing` that were said."""
    said: dict[str, Any] = {}
    if asked.size:
        said["height"], said["width"] = asked.size
    if asked.crop:
        said |= {"resize": "crop", "short_side": asked.crop}
    for name in ("resize", "interpolation", "channels"):
        if getattr(asked, name):
            said[name] = getattr(asked, name)
    numbers = {name: getattr(asked, name) for name in ("mean", "std") if getattr(asked, name)}
    small = all(abs(v) <= 1 for values in numbers.values() for v in values)
    scale = 255 // (asked.range or (1 if small else 255))
    return said | {name: tuple(scale * v for v in values) for name, values in numbers.items()}


def _size(text: str) -> tuple[int, int]:
    """`224` or `480x640`, height first."""
    parts = [int(part) for part in text.lower().split("x")]
    if len(parts) not in (1, 2) or min(parts) < 1:
        raise ArgumentTypeError(f"{text!r} is no size: say 224, or 480x640 (height x width)")
    return parts[0], parts[-1]


def _numbers(text: str) -> tuple[float, float, float]:
    """One number for all channels, or three."""
    values = [float(part) for part in text.replace(",", " ").split()]
    if len(values) not in (1, 3):
        raise ArgumentTypeError(f"{text!r} are not one or three numbers")
    return values[0], values[len(values) // 2], values[-1]
