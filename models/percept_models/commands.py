"""The offline commands: `export`, `verify`, `layers`, `visualize` and `teach`.

Each is a function from its arguments to an exit status, which the command `percept` finds by its entry point.
"""

import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

from percept.bundle.manifest import Layer, read
from percept.errors import PerceptError
from percept_models.export import arguments as words
from percept_models.export.arguments import REPOSITORY
from percept_models.export.convert import convert
from percept_models.export.draft import Say
from percept_models.reference import find, photos
from percept_models.training.recipes import RECIPES
from percept_models.training.recipes import teach as make
from percept_models.verify.checks import table
from percept_models.verify.checks import verify as check
from percept_models.visualize.command import CHANNELS, STEPS, Plan
from percept_models.visualize.command import visualize as draw


def export(arguments: Sequence[str]) -> int:
    """`export SOURCE --name NAME ...`: makes a bundle, saying what it guesses and what it proves."""
    wish = words.wish(arguments)
    try:
        print(convert(wish, _clock()))
    except (PerceptError, OSError) as error:
        return _failed(error)
    return 0


def verify(arguments: Sequence[str]) -> int:
    """`verify BUNDLE [--against torch|nothing|SOURCE] ...`: prints every check; status 1 where one fails."""
    parser = ArgumentParser("percept verify", description="Check that a bundle computes what it should.")
    parser.add_argument("bundle", type=Path, help="the folder <root>/<name>/<version>")
    parser.add_argument(
        "--against",
        metavar="TRUTH",
        help="torch (the source that the manifest names, with the bundle's own weights), a source as for export, an "
        ".onnx file, the folder of a float32 bundle, or nothing, which is what the bundle says of itself "
        "(default: torch for built-in networks, else nothing)",
    )
    parser.add_argument("--weights", default="default", help="of a source: default, none or a file")
    parser.add_argument("--images", type=Path, help="compare on these photos instead of the golden input")
    asked = parser.parse_args(arguments)
    try:
        truth = find(asked.bundle, asked.against, asked.weights)
        pictures = photos(asked.bundle, asked.images) if asked.images else None
    except PerceptError as error:
        return _failed(error)
    checks = check(asked.bundle, truth, pictures)
    print(table(checks))
    return 0 if all(one.passed for one in checks) else 1


def layers(arguments: Sequence[str]) -> int:
    """`layers BUNDLE`: prints a table of the tapped layers."""
    parser = ArgumentParser("percept layers", description="List the layers of a bundle.")
    parser.add_argument("bundle", type=Path, help="the folder <root>/<name>/<version>")
    try:
        manifest = read(parser.parse_args(arguments).bundle)
    except PerceptError as error:
        return _failed(error)
    rows = [HEADINGS, *(_row(layer) for layer in manifest.layers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def visualize(arguments: Sequence[str]) -> int:
    """`visualize BUNDLE [--photo FILE] ...`: draws what the layers look for and keep into the bundle."""
    parser = ArgumentParser(
        "percept visualize",
        description="Draw into a bundle its first kernels, the images that excite channels most, and what each layer "
        "keeps of a photo. What was drawn before is replaced.",
    )
    parser.add_argument("bundle", type=Path, help="the folder <root>/<name>/<version>, in float32")
    parser.add_argument(
        "--photo", type=Path, help="what layers keep is shown of it, and it stays in the bundle (default: golden input)"
    )
    parser.add_argument("--layers", nargs="+", default=(), metavar="LAYER", help="default: all that are tapped")
    parser.add_argument("--channels", type=_count, default=CHANNELS, help=f"of each layer (default {CHANNELS})")
    parser.add_argument("--steps", type=_count, default=STEPS, help=f"of gradient ascent (default {STEPS})")
    asked = parser.parse_args(arguments)
    try:
        draw(asked.bundle, Plan(tuple(asked.layers), asked.channels, asked.steps, asked.photo), _clock())
    except (PerceptError, OSError) as error:
        return _failed(error)
    return 0


def teach(arguments: Sequence[str]) -> int:
    """`teach NAME --data DIR`: trains, exports, verifies and measures a built-in bundle."""
    parser = ArgumentParser("percept teach", description="Make a built-in bundle from its data set.")
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data set")
    parser.add_argument("--out", type=Path, default=REPOSITORY, help=f"default: {REPOSITORY}")
    parser.add_argument("--epochs", type=int, help="of each phase; default: what the recipe says")
    parser.add_argument("--weights", type=Path, help="a trained state dict: nothing is trained")
    asked = parser.parse_args(arguments)
    try:
        folder = make(asked.name, asked.data, asked.out, asked.epochs, asked.weights)
    except (PerceptError, OSError) as error:
        return _failed(error)
    print(folder)
    return 0


HEADINGS = ("layer", "shape", "stride", "dilation", "field", "start", "gradients")


def _row(layer: Layer) -> tuple[str, ...]:
    """A layer in the order of the headings; pairs are (y, x)."""
    field = layer.receptive_field
    return (
        layer.name,
        "x".join(map(str, layer.shape)),
        _pair(layer.stride),
        _pair(layer.dilation),
        _pair(field.size) if field else "all",
        _pair(field.start) if field else "-",
        layer.unavailable or "yes",
    )


def _pair(values: tuple[float, float]) -> str:
    y, x = (f"{value:g}" for value in values)
    return y if y == x else f"{y},{x}"


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ArgumentTypeError(f"{text} is not at least 1")
    return value


def _clock() -> Say:
    """Prints lines with the seconds since now."""
    start = perf_counter()

    def say(line: str) -> None:
        print("\n".join(f"{perf_counter() - start:6.1f} s  {part}" for part in line.splitlines()), flush=True)

    return say


def _failed(why: object) -> int:
    print(f"percept: {why}", file=sys.stderr)
    return 1


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "export": export,
    "verify": verify,
    "layers": layers,
    "visualize": visualize,
    "teach": teach,
}


def main(arguments: Sequence[str]) -> int:
    """`python -m models COMMAND ...`."""
    parser = ArgumentParser("python -m models")
    parser.add_argument("command", choices=COMMANDS)
    return COMMANDS[parser.parse_args(arguments[:1]).command](arguments[1:])
