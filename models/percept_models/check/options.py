"""The options of `percept check`, parsed without torch."""

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from percept.bundle.manifest import Activation
from percept_models.export.options import (
    ExportOptions,
    add_preprocessing_options,
    add_weights_option,
    given_preprocessing,
)

EXAMPLE = """\
Every row of the table is one likely preprocessing. The right one names what is in the photos, in all of them; its
options are those of percept export. Options that you give here are not varied.
"""


@dataclass(frozen=True)
class CheckOptions:
    """The network with the options that the user fixed, the photos, and the number of classes to show."""

    network: ExportOptions
    photos: tuple[Path, ...]
    top: int


def parse_check_options(arguments: Sequence[str]) -> CheckOptions:
    """Parse the arguments; exits with status 2 and a usage message if they are invalid."""
    parser = ArgumentParser(
        "percept check",
        description="Show the classes of photos under the likely preprocessings of a network, side by side.",
        epilog=EXAMPLE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", metavar="NETWORK", help="a source as for percept export, or the folder of a bundle")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="photos of which you know the class")
    parser.add_argument("--top", type=_positive, default=3, metavar="N", help="classes of each photo (default: 3)")
    parser.add_argument("--labels", type=Path, help="the labels, as for percept export")
    add_weights_option(parser)
    parser.add_argument("--output", metavar="TENSOR", help="the logits of a network that has several outputs")
    parser.add_argument("--activation", choices=get_args(Activation), help="the function from logits to scores")
    add_preprocessing_options(parser)
    parsed = parser.parse_args(arguments)
    network = ExportOptions(
        source=parsed.network,
        name="check",
        out=Path(),
        weights=parsed.weights,
        labels=parsed.labels,
        preprocessing=given_preprocessing(parsed),
        activation=parsed.activation,
        output=parsed.output,
    )
    return CheckOptions(network, tuple(parsed.photos), parsed.top)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)
