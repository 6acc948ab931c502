"""The trunk of an imported network: the network with its preprocessing in front of it."""

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from percept.bundle.manifest import IMAGE
from percept.bundle.preprocessing import CHANNEL_COUNTS, Preprocessing
from percept.errors import BundleError
from percept_models.importer.conversion import infer_shapes
from percept_models.importer.naming import CENTRED, FLIPPED, FLOATS, LAST, MEAN, ORDER, SCALED, STD
from percept_models.importer.network import ImportedNetwork
from percept_models.importer.signature import CHANNELS_FIRST, CHANNELS_LAST, format_size
from percept_models.sources.trunk import PIXELS


def build_trunk(network: ImportedNetwork, preprocessing: Preprocessing) -> ModelProto:
    """Put the normalization before a network: `pixels` uint8 [N,H,W,C] → `image` [N,C,H,W] → `logits`.

    Raises `BundleError` where the preprocessing gives images of another size or other channels than the network takes,
    or normalizes those of a network that does it itself.
    """
    size = (preprocessing.height, preprocessing.width)
    if size != network.size:
        raise BundleError(
            f"the network takes images of {format_size(network.size)}, and the preprocessing gives {format_size(size)}"
        )
    _check_channels(network, preprocessing)
    model = ModelProto()
    model.CopyFrom(network.model)
    front, constants = _normalization(preprocessing)
    if network.layout == "NHWC":
        for node in model.graph.node:
            node.input[:] = [LAST if name == IMAGE else name for name in node.input]
        front.append(helper.make_node("Transpose", [IMAGE], [LAST], perm=CHANNELS_LAST))
    nodes = [*front, *model.graph.node]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    model.graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["N", *preprocessing.shape]))
    return infer_shapes(model)


def _check_channels(network: ImportedNetwork, preprocessing: Preprocessing) -> None:
    channels, count = preprocessing.channels, CHANNEL_COUNTS[preprocessing.channels]
    if count != network.channels:
        fitting = " or ".join(name for name, n in CHANNEL_COUNTS.items() if n == network.channels)
        raise BundleError(
            f"the network takes images of {network.channels} channel{'s' * (network.channels > 1)}, and {channels} "
            f"has {count}: use --channels {fitting}"
        )
    if network.takes_pixels and (any(preprocessing.mean) or set(preprocessing.std) != {1.0}):
        raise BundleError("the network takes uint8 pixels and normalizes them itself: leave out --mean and --std")


def _normalization(preprocessing: Preprocessing) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes and constants of (pixels in the network's channel order - mean) / std, image [N,C,H,W]."""
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []

    def add(operator: str, output: str, constant: tuple[str, Any] | None = None, **attributes: Any) -> None:
        inputs = [nodes[-1].output[0] if nodes else PIXELS]
        if constant:
            inputs.append(constant[0])
            constants.append(numpy_helper.from_array(constant[1], constant[0]))
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    if preprocessing.channels == "BGR":
        add("Gather", FLIPPED, (ORDER, np.array([2, 1, 0])), axis=3)
    add("Cast", FLOATS, to=TensorProto.FLOAT)
    if any(preprocessing.mean):
        add("Sub", CENTRED, (MEAN, np.array(preprocessing.mean, np.float32)))
    if set(preprocessing.std) != {1.0}:
        add("Div", SCALED, (STD, np.array(preprocessing.std, np.float32)))
    add("Transpose", IMAGE, perm=CHANNELS_FIRST)
    return nodes, constants
