"""The trunk traced from a torch network, with its output converted to logits as that of a file is.

In comes a trunk whose `logits` are still the network's own output; out comes one with logits [N,K] or [N,K,h,w]. Tapped
layers that are no longer on the way to the logits are left out.
"""

from onnx import ModelProto, TensorProto, helper

from percept.bundle.manifest import Activation
from percept_models.autodiff.tail import LOGITS
from percept_models.graph.execution import run
from percept_models.graph.reader import Array
from percept_models.graph.subgraph import remove_unused, required_nodes
from percept_models.importer.output_head import ConvertedOutput, append_logits, find_head
from percept_models.importer.signature import ImageInput
from percept_models.sources.trunk import PARAMETER_PREFIX, PIXELS

RAW = f"{LOGITS}.raw"  # the name of the network's own output while the logits are made of it: that of no module


def convert_trunk(
    trunk: ModelProto, pixels: Array, raw: Array, output: str | None, requested: Activation | None
) -> tuple[ModelProto, ConvertedOutput]:
    """Convert the first output of a trunk, which gives `raw` for `pixels` uint8 [n,H,W,C] in torch.

    `output` is the name of that output where the network has several, and `requested` the activation that the user asks
    for. Raises `BundleError` where it cannot be logits, or a removed activation does not make `raw` of them.
    """
    model = ModelProto()
    model.CopyFrom(trunk)
    _rename(model, LOGITS, RAW)
    found = find_head(model, raw, ImageInput("NCHW", *pixels.shape[1:3]), requested)
    if found.removed:
        found.check(raw, run(_with_only_output(model), {PIXELS: pixels})[model.graph.output[0].name])
    source = model.graph.output[0].name
    converted = append_logits(model, found, requested, output)
    _rename(model, model.graph.output[0].name, LOGITS)
    taps = _taps_before(model, {LOGITS, source}, trunk)
    del model.graph.output[:], model.graph.value_info[:]
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", *converted.shape])
    model.graph.output.extend([logits, *(value for value in trunk.graph.output[1:] if value.name in taps)])
    # Inference finds no shape behind a reshape to sizes that are computed from N, but torch states it.
    computed = {name for node in model.graph.node for name in node.output} - {LOGITS, RAW}
    model.graph.value_info.extend(value for value in trunk.graph.value_info if value.name in computed)
    return remove_unused(model, PARAMETER_PREFIX), converted


def _rename(model: ModelProto, old: str, new: str) -> None:
    """Rename a tensor that is computed."""
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    model.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info(new))


def _taps_before(model: ModelProto, logits: set[str], trunk: ModelProto) -> set[str]:
    """The tapped layers that the logits are computed from, without the tensors that are the logits themselves."""
    needed = {name for node in required_nodes(model.graph.node, {LOGITS}) for name in (*node.input, *node.output)}
    return {value.name for value in trunk.graph.output[1:]} & needed - logits


def _with_only_output(model: ModelProto) -> ModelProto:
    """A copy with the first output alone."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[1:], copy.graph.value_info[:]
    return copy
