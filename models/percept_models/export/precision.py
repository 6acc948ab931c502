"""A trunk in fewer bits: float16 for CUDA, 8-bit integers for the CPU, by ONNX Runtime's own tools.

In comes the trunk of a bundle as a model with its weights inside; out goes a new one whose inputs and outputs have
the same names, types and shapes, so that nothing around it need know. `pictures` gives what integers are calibrated
on. Which network it is, and how much accuracy it may lose, is not known here: whoever asks for it must measure.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnx_ir as ir
from onnx import ModelProto

from percept.bundle.manifest import Preprocessing
from percept.errors import BrokenImage, BundleError, ImageTooLarge, NotAnImage
from percept.imaging.decode import decode_for, prepare
from percept_models.graph.reader import Array
from percept_models.sources.trunk import PIXELS

# isort: split
# After the others: `percept.runtime.session` must import ONNX Runtime first, because it disables its telemetry.
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

MAX_BYTES = 2**28  # of a file that is taken for an image
MAX_PIXELS = 2**28

# The operators that ONNX Runtime's CPU computes on 8-bit integers. It would quantise around others too (norms,
# transposed convolutions, resizing) and then compute them in float32: slower, and rounded twice for nothing.
OPERATORS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul"),
    *("Relu", "Clip", "LeakyRelu", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Concat", "Split", "Slice", "Gather", "Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
)


def half(trunk: ModelProto) -> ModelProto:
    """The trunk in float16: its weights and all that it computes, but not its outputs.

    `pixels` stay uint8 [N,H,W,3], logits and layers float32. The normalisation is float16 too: a pixel is exact in
    it, and mean and std are rounded no worse than the weights. Batch norms are merged into their convolutions first,
    in float32, since a variance may be too great for float16. A CPU runs it in float32 between casts, and is slower.
    """
    with _quietly(), TemporaryDirectory() as folder:
        folded = onnx.load(_folded(trunk, Path(folder)))
    del folded.graph.value_info[:]  # the tool takes a constant that is described here for float16, and casts it again
    converted = ir.from_proto(convert_float_to_float16(folded, keep_io_types=True))
    converted.graph.sort()  # the casts stand at the end
    return _tidy(ir.to_proto(converted))


def quantized(trunk: ModelProto, pictures: Iterable[Array]) -> ModelProto:
    """The trunk in 8-bit integers: int8 weights with a scale for each channel, uint8 activations with one for all.

    `pictures` uint8 [H,W,3] are photos as the trunk takes them, some hundred; they set the range of every activation
    (Jacob et al. 2017, arXiv:1712.05877), which is from its least value to its greatest: percentiles and entropy were
    no more accurate and took three times as long. `pixels` stay uint8 [N,H,W,3], logits and layers float32. Neither
    the first convolution nor the head is spared, for that gained nothing; only the linear layers do not round what
    they give, which costs nothing and keeps two classes from having the same logit. The trunk must be of opset 13 or
    newer. Raises `BundleError` where there is no picture.
    """
    feed = _Feed(pictures)
    with _quietly(), TemporaryDirectory() as folder:
        folded, result = _folded(trunk, Path(folder)), Path(folder) / "quantized.onnx"
        quantize_static(
            folded,
            result,
            feed,
            nodes_to_exclude=_clipping(onnx.load(folded)),
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        return _tidy(onnx.load(result))


def pictures(folder: Path, how: Preprocessing, limit: int = 200) -> Iterator[Array]:
    """The images in a folder and below it as the trunk takes them, uint8 [H,W,3], in the order of their paths.

    Where there are more than `limit` files they are dealt into as many runs of neighbours, and the first image of
    each is taken. What is no image, or a broken one, is skipped. Raises `BundleError` where none is left.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size <= MAX_BYTES)
    ends = [i * len(files) // limit for i in range(limit + 1)]
    empty = True
    for begin, end in pairwise(ends):
        for picture in islice(_prepared(files[begin:end], how), 1):
            empty = False
            yield picture
    if empty:
        raise BundleError(f"{folder} holds no image")


def _prepared(files: Iterable[Path], how: Preprocessing) -> Iterator[Array]:
    """The images among the files, decoded and prepared as the online house does it."""
    for file in files:
        try:
            photo, view = decode_for(how, file.read_bytes(), MAX_BYTES, MAX_PIXELS)
        except (NotAnImage, BrokenImage, ImageTooLarge):
            continue
        yield prepare(photo, view, how)


class _Feed:
    """Pictures as ONNX Runtime's calibration asks for them: one batch at a time, None at the end."""

    def __init__(self, pictures: Iterable[Array]) -> None:
        rows = iter(pictures)
        first = next(rows, None)
        if first is None:
            raise BundleError("there is no picture to calibrate on")
        self._rows = chain([first], rows)

    def get_next(self) -> dict[str, Array] | None:
        """The next feeds of the trunk."""
        picture = next(self._rows, None)
        return None if picture is None else {PIXELS: picture[None]}


def _folded(trunk: ModelProto, folder: Path) -> Path:
    """Write the trunk with batch norms merged into convolutions and all shapes inferred, and return the file.

    The tools take a model in memory too, but then move its weights out of it into files that they delete.
    """
    given, folded = folder / "given.onnx", folder / "folded.onnx"
    onnx.save(trunk, given)
    quant_pre_process(given, folded, skip_symbolic_shape=True)
    model = onnx.load(folded)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"unnamed.{number}"  # the tools tell nodes apart by their names
    onnx.save(model, folded)
    return folded


def _clipping(model: ModelProto) -> list[str]:
    """The nodes that clip a tapped layer, by name: quantised, they would clip what is tapped too.

    ONNX Runtime gives the input of a Relu the range of its output, without asking who else looks at it.
    """
    tapped = {output.name for output in model.graph.output}
    return [node.name for node in model.graph.node if node.op_type in ("Relu", "Clip") and node.input[0] in tapped]


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the tools, which speak through the root logger, from setting it up for the whole process."""
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(silent)


def _tidy(model: ModelProto) -> ModelProto:
    """The model without the marks of the tools and the operator sets that they declare but do not use."""
    used = {"", *(node.domain for node in model.graph.node)}
    declared = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:], model.metadata_props[:]
    model.opset_import.extend(declared)
    return model
