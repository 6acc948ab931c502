"""The commands of the export toolchain: `export`, `check`, `verify`, `layers`, `visualize` and `teach`.

Each function takes the arguments after its name and returns the exit status; the command `percept` finds it by an entry
point and prints the errors that it raises. What a command works with is imported by its function, after the arguments
were checked: torch takes seconds to import, and help and wrong arguments do not need it.
"""

import shlex
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import Layer
from percept.errors import PerceptError
from percept.process import silence_libraries
from percept.settings import Settings
from percept_models.check.options import parse_check_options
from percept_models.export import preconditions
from percept_models.export.options import add_out_option, parse_options
from percept_models.export.report import format_line, timed_report
from percept_models.training.names import NAMES
from percept_models.visualize.options import CHANNELS, STEPS, VisualizeOptions

HEADINGS = ("layer", "shape", "stride", "dilation", "field", "start", "gradients")


def export(arguments: Sequence[str]) -> int:
    """`export SOURCE --name NAME ...`: exports and verifies a bundle, and prints every guess and every check."""
    options = parse_options(arguments, Settings().models)
    preconditions.check_request(options)
    with _toolchain():
        from percept_models.check.contrast import describe_doubt
        from percept_models.export.convert import convert

        report = timed_report()
        folder = convert(options, report)
        is_guessed = preconditions.is_onnx_file(options.source) and not options.preprocessing.keys() & {"mean", "std"}
        if is_guessed and (doubt := describe_doubt(folder, options.source)):
            report(format_line("warning", doubt))
        print(_format_written(folder, options.out))
    return 0


def check(arguments: Sequence[str]) -> int:
    """`check NETWORK PHOTO...`: prints the classes of photos under the likely preprocessings, side by side."""
    options = parse_check_options(arguments)
    preconditions.check_source(options.network.source, options.network.weights)
    for file in (*options.photos, *filter(None, [options.network.labels])):
        preconditions.require_file(file)
    with _toolchain():
        from percept_models.check import command

        command.check(options, timed_report(), print)
    return 0


def verify(arguments: Sequence[str]) -> int:
    """`verify BUNDLE [--against torch|nothing|SOURCE] ...`: prints every check; status 1 if one fails."""
    parser = ArgumentParser("percept verify", description="Check that a bundle computes what its network computes.")
    _add_bundle_argument(parser)
    parser.add_argument(
        "--against",
        metavar="REFERENCE",
        help="torch (the source in the manifest, with the bundle's own weights), a source as for export, an .onnx "
        "file, the folder of a float32 bundle, or nothing, for the checks that need no reference "
        "(default: torch for built-in bundles, else nothing)",
    )
    parser.add_argument("--weights", default="default", help="the weights of a source: default, none or a file")
    parser.add_argument("--images", type=Path, help="a folder of photos to compare on instead of the golden input")
    parsed = parser.parse_args(arguments)
    preconditions.require_bundle(parsed.bundle)
    if parsed.against not in (None, "torch", "nothing"):
        preconditions.check_source(parsed.against, parsed.weights)
    if parsed.images:
        preconditions.require_folder(parsed.images)
    with _toolchain():
        from percept_models.reference import bundle_photos, find_reference
        from percept_models.verify.bundle import verify_bundle
        from percept_models.verify.table import format_check

        reference = find_reference(parsed.bundle, parsed.against, parsed.weights)
        pixels = bundle_photos(parsed.bundle, parsed.images) if parsed.images else None
        checks = verify_bundle(parsed.bundle, reference, pixels, lambda check: print(format_check(check), flush=True))
    return 0 if all(check.passed for check in checks) else 1


def layers(arguments: Sequence[str]) -> int:
    """`layers BUNDLE`: prints a table of the tapped layers."""
    parser = ArgumentParser("percept layers", description="List the layers of a bundle.")
    _add_bundle_argument(parser)
    bundle = parser.parse_args(arguments).bundle
    preconditions.require_bundle(bundle)
    manifest = read_manifest(bundle)
    rows = [HEADINGS, *(_format_layer(layer) for layer in manifest.layers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def visualize(arguments: Sequence[str]) -> int:
    """`visualize BUNDLE [--photo FILE] ...`: draws the filter pictures of a bundle into it."""
    parser = ArgumentParser(
        "percept visualize",
        description="Draw filter pictures into a bundle: the first kernels, the images that maximize single channels "
        "of each layer, and each layer's inversion of a photo. Older pictures are replaced.",
    )
    _add_bundle_argument(parser, "in float32")
    parser.add_argument(
        "--photo", type=Path, help="the photo to invert, which is stored in the bundle (default: the golden input)"
    )
    parser.add_argument("--layers", nargs="+", default=(), metavar="LAYER", help="the layers to draw (default: all)")
    parser.add_argument(
        "--channels", type=_positive, default=CHANNELS, help=f"channels of each layer (default: {CHANNELS})"
    )
    parser.add_argument("--steps", type=_positive, default=STEPS, help=f"steps of the optimization (default: {STEPS})")
    parsed = parser.parse_args(arguments)
    preconditions.require_bundle(parsed.bundle)
    if parsed.photo:
        preconditions.require_file(parsed.photo)
    options = VisualizeOptions(tuple(parsed.layers), parsed.channels, parsed.steps, parsed.photo)
    with _toolchain():
        from percept_models.visualize.command import visualize as draw_filters

        draw_filters(parsed.bundle, options, timed_report())
    return 0


def teach(arguments: Sequence[str]) -> int:
    """`teach NAME --data DIR`: trains, verifies, measures and exports a built-in bundle."""
    parser = ArgumentParser("percept teach", description="Train a built-in bundle on its data set.")
    parser.add_argument("name", choices=NAMES, help="the bundle to train")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data set")
    add_out_option(parser, Settings().models)
    parser.add_argument("--epochs", type=int, help="epochs of each phase (default: those of the recipe)")
    parser.add_argument("--weights", type=Path, help="use this trained state dict instead of training")
    parsed = parser.parse_args(arguments)
    preconditions.require_folder(parsed.data)
    if parsed.weights:
        preconditions.require_file(parsed.weights)
    with _toolchain():
        from percept_models.training.bundles import train_bundle

        folder = train_bundle(parsed.name, parsed.data, parsed.out, parsed.epochs, parsed.weights)
    print(_format_written(folder, parsed.out))
    return 0


def _add_bundle_argument(parser: ArgumentParser, remark: str = "") -> None:
    text = ", ".join(filter(None, ["the folder of the bundle, <root>/<name>/<version>", remark]))
    parser.add_argument("bundle", type=Path, help=text)


def _format_written(bundle: Path, out: Path) -> str:
    """The folder of a new bundle, and the command that serves it."""
    command = "percept serve"
    if out.resolve() != Settings().models.resolve():
        command = f"PERCEPT_MODELS={shlex.quote(str(out.absolute()))} {command}"
    return f"wrote {bundle.absolute()}; to serve it: {command}"


def _format_layer(layer: Layer) -> tuple[str, ...]:
    """A layer in the order of the headings; pairs are (y, x)."""
    field = layer.receptive_field
    return (
        layer.name,
        "x".join(map(str, layer.shape)),
        _format_pair(layer.stride),
        _format_pair(layer.dilation),
        _format_pair(field.size) if field else "all",
        _format_pair(field.start) if field else "-",
        layer.unavailable or "yes",
    )


def _format_pair(values: tuple[float, float]) -> str:
    y, x = (f"{value:g}" for value in values)
    return y if y == x else f"{y},{x}"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


@contextmanager
def _toolchain() -> Iterator[None]:
    """Keep the messages of libraries from the terminal, and turn errors of the file system into one line."""
    try:
        with silence_libraries():
            yield
    except OSError as error:
        raise PerceptError(str(error)) from error
