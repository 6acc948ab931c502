"""A source becomes a `SourceNetwork`: a trunk, its reference, and what the makers of the network state about it.

The user's options replace what the source states. Torch networks come from `sources`, ONNX files from `importer`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto
from torch import nn

from percept.bundle.manifest import IMAGE, Activation, OutputHead
from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError
from percept_models.export.options import ExportOptions
from percept_models.export.preconditions import is_onnx_file
from percept_models.export.report import Report, format_line
from percept_models.graph.reader import Graph
from percept_models.graph.stages import Nesting
from percept_models.importer.network import import_network
from percept_models.importer.output_head import ConvertedOutput
from percept_models.importer.quantization import clip_activations, dequantize_weights
from percept_models.importer.traced_trunk import convert_trunk
from percept_models.importer.trunk import build_trunk
from percept_models.sources.channels import CHANNELS_BY_COUNT, describe_mismatch, guess_channels
from percept_models.sources.failure import explain_failure
from percept_models.sources.inference import check_inference
from percept_models.sources.libraries import load_source
from percept_models.sources.preprocessing import merge_preprocessing
from percept_models.sources.torch_source import TorchSource
from percept_models.sources.trunk import example_pixels, find_feature_maps, run_network, trace
from percept_models.verify.onnx_reference import Reference, imported_network_reference

ROUNDING = "integers became floats: the trunk rounds activations as before, the tails (and so gradients) do without"


@dataclass(frozen=True)
class SourceNetwork:
    """A trunk, the reference that it must agree with, and what the source states about both.

    By the name of a tensor, `nesting` has the nesting of its module for each tensor that may be tapped, `modules` the
    path of the module that returns it, and `aliases` its name in the file if that is another one. `labels` may be
    empty. `activation` gives the scores, and `head` says how the logits were made of the network's own output. Where
    the source rounds activations to integers, `trunk` does not, and `quantized` is the trunk that does. A source that
    `normalizes` its pixels itself leaves nothing to guess about mean and std.
    """

    trunk: ModelProto
    reference: Reference
    nesting: Mapping[str, Nesting]
    preprocessing: Preprocessing
    weights: str
    license: str = "not stated"
    labels: tuple[str, ...] = ()
    activation: Activation = "softmax"
    head: OutputHead = field(default_factory=OutputHead)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    quantized: ModelProto | None = None
    normalizes: bool = False

    @property
    def is_torch(self) -> bool:
        """Whether the source is a torch network: its tensors have the names of modules, which verification looks up."""
        return isinstance(self.reference, nn.Module)


def open_source(options: ExportOptions, report: Report) -> SourceNetwork:
    """Load the source and build its trunk; raises `BundleError` or `ValueError` with the reason if it cannot."""
    return _open_file(options, report) if is_onnx_file(options.source) else _open_torch(options, report)


def _open_torch(options: ExportOptions, report: Report) -> SourceNetwork:
    source = load_source(options.source, options.weights)
    preprocessing = _fit_preprocessing(source, options.preprocessing)
    report(format_line("network", f"{type(source.network).__name__}; tracing it"))
    for note in source.notes:
        report(format_line("changed", note))
    try:
        nesting, trunk, converted = _trace(source, preprocessing, options, report)
    except (ValueError, BundleError):
        raise
    except Exception as error:  # torch's exporter raises errors of every type
        size = f"{preprocessing.height} x {preprocessing.width}"
        mismatch = describe_mismatch(source.network, preprocessing)
        raise BundleError(f"torch cannot export the network at {size}: {explain_failure(error)}{mismatch}") from error
    return SourceNetwork(
        trunk=trunk,
        reference=source.network,
        nesting=nesting,
        preprocessing=preprocessing,
        weights=source.weights,
        license=source.license,
        labels=source.labels,
        activation=converted.activation,
        head=converted.head,
    )


def _fit_preprocessing(source: TorchSource, given: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of a torch network, for the channels that were given or that its first convolution takes."""
    guess, shapes = source.preprocessing, {k: v for k, v in given.items() if k not in ("mean", "std")}
    sized = merge_preprocessing(guess, shapes, source.crop_pct)
    channels = sized.channels if "channels" in given else guess_channels(source.network, sized)
    return merge_preprocessing(guess, {**given, "channels": channels}, source.crop_pct)


def _trace(
    source: TorchSource, preprocessing: Preprocessing, options: ExportOptions, report: Report
) -> tuple[Mapping[str, Nesting], ModelProto, ConvertedOutput]:
    """Trace the layers that the user named, else all feature maps, and convert the output to logits."""
    check_inference(source.network, preprocessing)
    named = [*options.layers, *filter(None, [options.cam_layer])] if options.layers else []
    pixels = example_pixels(preprocessing)
    output = run_network(source.network, preprocessing, pixels, options.output)
    if others := output.describe_others():
        report(format_line("output", f"{output.name}; left out: {others}", None if options.output else "--output"))
    nesting = dict.fromkeys(named, Nesting()) or find_feature_maps(source.network, preprocessing, output.name)
    traced = trace(source.network, preprocessing, list(dict.fromkeys([IMAGE, *nesting])), output.name)
    trunk, converted = convert_trunk(traced, pixels.numpy(), output.tensor.numpy(), output.name, options.activation)
    for note in converted.notes:
        report(format_line("changed", note))
    taps = {value.name for value in trunk.graph.output}
    if behind := [name for name in named if name not in taps]:
        raise BundleError(
            f"the layer {behind[0]!r} is the same tensor as the image or another layer, or the logits or after them: "
            "leave it out"
        )
    return {name: depth for name, depth in nesting.items() if name in taps}, trunk, converted


def _open_file(options: ExportOptions, report: Report) -> SourceNetwork:
    file = Path(options.source)
    if options.weights != "default":
        raise BundleError(f"{file.name} contains its weights: --weights is for torch networks")
    height, width = options.preprocessing.get("height"), options.preprocessing.get("width")
    size = (height, width) if height and width else None
    network = import_network(file, size, options.output, options.activation)
    for note in network.notes:
        report(format_line("changed", note))
    channels = CHANNELS_BY_COUNT[network.channels]
    guess = Preprocessing(height=network.size[0], width=network.size[1], channels=channels)
    preprocessing = merge_preprocessing(guess, options.preprocessing)
    rounded = dequantize_weights(build_trunk(network, preprocessing))
    unrounded = clip_activations(rounded)
    if unrounded:
        report(format_line("changed", ROUNDING))
    trunk = unrounded or rounded
    return SourceNetwork(
        trunk=trunk,
        reference=imported_network_reference(network, preprocessing),
        nesting=dict.fromkeys(Graph(trunk).producer, Nesting()),
        aliases={new: (old,) for new, old in network.names.items() if old != new and old.isprintable()},
        modules=network.modules,
        preprocessing=preprocessing,
        weights=f"those in {file.name}",
        activation=network.activation,
        head=network.head,
        quantized=rounded if unrounded else None,
        normalizes=network.takes_pixels,
    )
