"""A trunk in lower precision: float16 for CUDA, 8-bit integers for the CPU, by ONNX Runtime's own tools.

In comes a float32 trunk with its weights inside; out comes a new model whose inputs and outputs have the same names,
types and shapes. How much accuracy the network may lose is not known here: the caller must measure it.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnx_ir as ir
from onnx import ModelProto

from percept.errors import BundleError
from percept.runtime.session import merge_batch_norms
from percept_models.graph.reader import Array
from percept_models.sources.trunk import PIXELS

# isort: split
# After `percept.runtime.session`, which disables ONNX Runtime's telemetry; that works only before its import.
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

# The operators that ONNX Runtime's CPU kernels compute on 8-bit integers. It would also quantize around other operators
# (normalizations, transposed convolutions, resizing) and compute those in float32: slower, and rounded twice in vain.
OPERATORS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul"),
    *("Relu", "Clip", "LeakyRelu", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Concat", "Split", "Slice", "Gather", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
)


def to_float16(trunk: ModelProto) -> ModelProto:
    """Convert a trunk to float16: its weights and everything it computes, except its inputs and outputs.

    `pixels` stay uint8 [N,H,W,C], logits and layers float32. The normalization is float16 too: a pixel is exact in it,
    and mean and std are rounded no worse than the weights. Batch norms are first merged into their convolutions in
    float32, because a variance may be too large for float16. On a CPU the result runs in float32 between casts, slower.
    """
    with _silenced(), TemporaryDirectory() as folder:
        merged = onnx.load(_merge_batch_norms(trunk, Path(folder)))
    del merged.graph.value_info[:]  # the tool takes a constant that is described there for float16, and casts it again
    converted = ir.from_proto(convert_float_to_float16(merged, keep_io_types=True))
    converted.graph.sort()  # the tool appends its casts at the end
    return _remove_marks(ir.to_proto(converted))


def to_int8(trunk: ModelProto, photos: Iterable[Array]) -> ModelProto:
    """Quantize a trunk to integers: weights of -64..64 with a scale per channel, uint8 activations with one per tensor.

    `photos` are pixels uint8 [H,W,C] as the trunk takes them, some hundred; the range of every activation is from its
    minimum to its maximum over them (Jacob et al. 2017, arXiv:1712.05877). Percentiles and entropy were no more
    accurate and took three times as long. `pixels` stay uint8 [N,H,W,C], logits and layers float32. Keeping the first
    convolution or the head in float32 gained nothing; only the outputs of linear layers are not rounded, which costs
    nothing and keeps two classes from getting the same logit. The trunk must be of opset 13 or newer. Raises
    `BundleError` where there is no photo.

    The weights have 7 of the 8 bits (`reduce_range`), so that every CPU computes the same. On x86 without VNNI ONNX
    Runtime adds pairs of products in int16: 2 * 255 * 64 fits, 2 * 255 * 127 saturates. There 8-bit weights took
    `cifar10` from 0.9018 top-1 to 0.8863, with 7 bits it has 0.9007. The speed is the same; uint8 weights do not
    saturate either, but are computed by slower kernels (ResNet-50 on AVX2: 1.4 times float32 instead of 1.9).
    """
    reader = _CalibrationReader(photos)
    with _silenced(), TemporaryDirectory() as folder:
        merged, result = _merge_batch_norms(trunk, Path(folder)), Path(folder) / "quantized.onnx"
        quantize_static(
            merged,
            result,
            reader,
            nodes_to_exclude=_clips_of_tapped_layers(onnx.load(merged)),
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        return _remove_marks(onnx.load(result))


class _CalibrationReader:
    """Photos as ONNX Runtime's calibration reads them: a batch of one at a time, None at the end."""

    def __init__(self, photos: Iterable[Array]) -> None:
        remaining = iter(photos)
        first = next(remaining, None)
        if first is None:
            raise BundleError("there is no photo to calibrate on")
        self._photos = chain([first], remaining)

    def get_next(self) -> dict[str, Array] | None:
        """The next feeds of the trunk."""
        photo = next(self._photos, None)
        return None if photo is None else {PIXELS: photo[None]}


def _merge_batch_norms(trunk: ModelProto, folder: Path) -> Path:
    """Write the trunk with batch norms merged into convolutions and all shapes inferred, and return the file.

    The tools also take a model in memory, but then move its weights out of it into files that they delete.
    """
    source, optimized, merged = (folder / f"{name}.onnx" for name in ("source", "optimized", "merged"))
    onnx.save(trunk, source)
    merge_batch_norms(source, optimized)
    quant_pre_process(optimized, merged, skip_optimization=True, skip_symbolic_shape=True)
    model = onnx.load(merged)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"unnamed.{number}"  # the tools identify nodes by their names
    onnx.save(model, merged)
    return merged


def _clips_of_tapped_layers(model: ModelProto) -> list[str]:
    """The names of the nodes that clip a tapped layer.

    ONNX Runtime quantizes the input of a Relu with the range of its output. The tapped layer would be clipped too.
    """
    tapped = {output.name for output in model.graph.output}
    return [node.name for node in model.graph.node if node.op_type in ("Relu", "Clip") and node.input[0] in tapped]


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the tools, which log through the root logger, from configuring it for the whole process."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def _remove_marks(model: ModelProto) -> ModelProto:
    """Remove the metadata that the tools add, and the operator sets that they declare but do not use."""
    used = {"", *(node.domain for node in model.graph.node)}
    declared = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:], model.metadata_props[:]
    model.opset_import.extend(declared)
    return model
