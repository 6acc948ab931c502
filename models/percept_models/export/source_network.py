"""A source becomes a `SourceNetwork`: a trunk, its reference, and what the makers of the network state about it.

The user's options replace what the source states. Torch networks come from `sources`, ONNX files from `importer`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from percept.bundle.manifest import IMAGE, Activation
from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError, first_line
from percept_models.export.options import ExportOptions
from percept_models.export.report import Report, format_line
from percept_models.graph.reader import Graph
from percept_models.importer.network import import_network
from percept_models.importer.trunk import build_trunk
from percept_models.sources.libraries import load_source
from percept_models.sources.preprocessing import merge_preprocessing
from percept_models.sources.torch_source import TorchSource
from percept_models.sources.trunk import find_feature_maps, trace
from percept_models.verify.onnx_reference import Reference, imported_network_reference


@dataclass(frozen=True)
class SourceNetwork:
    """A trunk, the reference that it must agree with, and what the source states about both.

    `nesting` maps each tensor that may be tapped to the nesting depth of its module. `labels` may be empty, and
    `activation` is None where the source does not state it.
    """

    trunk: ModelProto
    reference: Reference
    nesting: Mapping[str, int]
    preprocessing: Preprocessing
    weights: str
    license: str = "not stated"
    labels: tuple[str, ...] = ()
    activation: Activation | None = None


def open_source(options: ExportOptions, report: Report) -> SourceNetwork:
    """Load the source and build its trunk; raises `BundleError` or `ValueError` with the reason if it cannot."""
    return _open_file(options, report) if is_onnx_file(options.source) else _open_torch(options, report)


def is_onnx_file(source: str) -> bool:
    """Whether a source is an ONNX file, not a torch network."""
    return source.endswith(".onnx") or Path(source).is_file()


def _open_torch(options: ExportOptions, report: Report) -> SourceNetwork:
    source = load_source(options.source, options.weights)
    preprocessing = merge_preprocessing(source.preprocessing, options.preprocessing)
    report(format_line("network", f"{type(source.network).__name__}; tracing it"))
    try:
        nesting, trunk = _trace(source, preprocessing, options)
    except ValueError:
        raise
    except Exception as error:  # torch's exporter raises errors of every type
        size = f"{preprocessing.height} x {preprocessing.width}"
        raise BundleError(f"torch cannot export the network at {size}: {first_line(error)}") from error
    return SourceNetwork(trunk, source.network, nesting, preprocessing, source.weights, source.license, source.labels)


def _trace(
    source: TorchSource, preprocessing: Preprocessing, options: ExportOptions
) -> tuple[Mapping[str, int], ModelProto]:
    """Trace the layers that the user named, else all feature maps."""
    named = [*options.layers, *filter(None, [options.cam_layer])] if options.layers else []
    nesting = dict.fromkeys(named, 0) or find_feature_maps(source.network, preprocessing)
    return nesting, trace(source.network, preprocessing, list(dict.fromkeys([IMAGE, *nesting])))


def _open_file(options: ExportOptions, report: Report) -> SourceNetwork:
    file = Path(options.source)
    if options.weights != "default":
        raise BundleError(f"{file.name} contains its weights: --weights is for torch networks")
    height, width = options.preprocessing.get("height"), options.preprocessing.get("width")
    network = import_network(file, (height, width) if height and width else None, options.output)
    for note in network.notes:
        report(format_line("changed", note))
    guess = Preprocessing(height=network.size[0], width=network.size[1])
    preprocessing = merge_preprocessing(guess, options.preprocessing)
    trunk = build_trunk(network, preprocessing)
    return SourceNetwork(
        trunk=trunk,
        reference=imported_network_reference(network, preprocessing),
        nesting=dict.fromkeys(Graph(trunk).producer, 0),
        preprocessing=preprocessing,
        weights=f"those in {file.name}",
        activation=network.activation,
    )
