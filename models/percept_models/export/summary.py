"""What `percept export` prints of a bundle before writing it: each property, and the option that replaces a guess."""

from collections.abc import Callable, Sequence, Set

from percept.bundle.manifest import IMAGE
from percept.bundle.preprocessing import Preprocessing
from percept_models.export.bundle_writer import BundleDescription
from percept_models.export.options import ExportOptions
from percept_models.export.report import Report, format_line
from percept_models.export.source_network import SourceNetwork
from percept_models.export.tails import TappedLayer
from percept_models.export.taps import TappedNetwork
from percept_models.graph.reader import Shape

SHOWN_LABELS = 4


def report_description(
    report: Report,
    options: ExportOptions,
    source: SourceNetwork,
    description: BundleDescription,
    tapped: TappedNetwork,
) -> None:
    """Report what the bundle will contain, one property to a line."""
    labels = description.labels

    def line(subject: str, value: str, option: str, is_given: bool) -> None:
        report(format_line(subject, value, None if is_given else option))

    report(format_line("weights", source.weights))
    line("license", description.provenance.license, "--license", bool(options.license))
    line("task", f"{description.task}, {description.activation}", "--activation", bool(options.activation))
    _report_preprocessing(line, description.preprocessing, options.preprocessing.keys(), source.normalizes)
    line("labels", _format_labels(labels), "--labels", bool(options.labels))
    if description.background is not None:
        line("background", labels[description.background], "--background", options.background is not None)
    for layer in tapped.layers:
        text = _format_layer(layer, tapped.graph.shapes[layer.name])
        line("layer", text, "--layers", bool(options.layers) or layer.name == IMAGE)
    line("CAM layer", description.cam_layer, "--cam-layer", bool(options.cam_layer))


def _report_preprocessing(
    line: Callable[[str, str, str, bool], None], preprocessing: Preprocessing, given: Set[str], normalizes: bool
) -> None:
    """Report the fields of the preprocessing; those that were `given`, or of no use to the network, are no guesses."""
    resize_given = bool(given & {"resize", "resize_size"})
    line("size", f"{preprocessing.height} x {preprocessing.width}", "--size", "height" in given)
    line("resize", _format_resize(preprocessing), "--resize, --crop, --resize-size", resize_given)
    line("channels", preprocessing.channels, "--channels", "channels" in given)
    line("mean", _format_numbers(preprocessing.mean), "--mean", "mean" in given or normalizes)
    line("std", _format_numbers(preprocessing.std), "--std", "std" in given or normalizes)


def format_shape(shape: Shape) -> str:
    """A shape as `Nx3x224x224`; N is a symbolic size."""
    return "x".join("N" if size is None else str(size) for size in shape)


def _format_layer(layer: TappedLayer, shape: Shape) -> str:
    """The name and size of a layer, and why it has no gradients if it has none."""
    return f"{layer.name} {format_shape(shape[1:])}" + ("" if layer.tail else f"; {layer.unavailable}")


def _format_resize(preprocessing: Preprocessing) -> str:
    rule: str = preprocessing.resize
    if preprocessing.resize_size:
        target = {"squeeze": "to", "crop": "to cover", "pad": "to fit into"}[rule]
        rule += " after resizing the photo {} {} x {}".format(target, *preprocessing.resize_size)
    elif rule == "crop":
        rule += f" after scaling the short side to {preprocessing.short_side}"
    if rule.startswith("pad"):
        rule += ", filled with {}, {}, {}".format(*preprocessing.fill)
    return f"{rule}, {preprocessing.interpolation}"


def _format_numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.6g}" for v in values)


def _format_labels(labels: Sequence[str]) -> str:
    return f"{len(labels)}: {', '.join(labels[:SHOWN_LABELS])}" + (", ..." if len(labels) > SHOWN_LABELS else "")
