"""References for `verify_bundle`, and those that are ONNX graphs: the trunk of a bundle, or a user's file.

A reference is a torch network or a function of images; here ONNX graphs become such functions.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from onnx import ModelProto, helper
from torch import nn

from percept.bundle.manifest import Activation, Layer, Manifest
from percept.bundle.preprocessing import Preprocessing
from percept_models.graph.execution import run
from percept_models.graph.reader import Array
from percept_models.importer.network import ImportedNetwork, import_network
from percept_models.sources.preprocessing import normalize_pixels
from percept_models.sources.trunk import PIXELS

ReferenceOutputs = Callable[[Array], Mapping[str, Array]]  # images uint8 [N,H,W,C] → "logits", and layers by name
Reference = nn.Module | ReferenceOutputs | None


def trunk_reference(trunk: ModelProto, manifest: Manifest) -> ReferenceOutputs:
    """A trunk as the reference: its logits, the layers of a bundle and the tensors that bypass them."""
    model = ModelProto()
    model.CopyFrom(trunk)
    wanted = {name for layer in manifest.layers for name in _tail_inputs(layer)}
    wanted -= {output.name for output in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sorted(wanted))
    return lambda pixels: run(model, {PIXELS: pixels}, optimize=False)


def _tail_inputs(layer: Layer) -> tuple[str, ...]:
    return layer.name, *(layer.tail.crossing if layer.tail else ())


def onnx_file_reference(file: Path, manifest: Manifest) -> ReferenceOutputs:
    """The graph of an ONNX file as the reference of a bundle: its logits, converted as those of the bundle were.

    Raises `BundleError` where the file cannot be imported.
    """
    preprocessing = manifest.preprocessing
    # `none` keeps the end of the file as it is.
    activation: Activation | None = "none" if manifest.activation == "none" else None
    network = import_network(file, (preprocessing.height, preprocessing.width), manifest.head.output, activation)
    return imported_network_reference(network, preprocessing)


def imported_network_reference(network: ImportedNetwork, preprocessing: Preprocessing) -> ReferenceOutputs:
    """An imported network as the reference: its logits, of images that NumPy normalizes."""
    (image,) = network.model.graph.input

    def outputs(pixels: Array) -> dict[str, Array]:
        x = normalize_pixels(pixels, preprocessing)
        feeds = {image.name: x if network.layout == "NHWC" else x.transpose(0, 3, 1, 2)}
        return run(network.model, feeds, optimize=False)

    return outputs
