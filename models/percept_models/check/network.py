"""A network without its normalization: images float32 go in, logits come out, whatever the preprocessing is.

In comes a source of `percept export` or the folder of a bundle; its trunk is cut at the layer `image`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import IMAGE, MANIFEST, Activation
from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError
from percept.runtime.cpu_count import count_cpus
from percept.runtime.session import Session
from percept_models.autodiff.tail import LOGITS
from percept_models.export.options import ExportOptions
from percept_models.export.report import Report
from percept_models.export.source_network import open_source
from percept_models.graph.reader import Array, Graph
from percept_models.graph.subgraph import required_nodes
from percept_models.sources.labels import choose_labels
from percept_models.sources.trunk import PIXELS


@dataclass(frozen=True)
class Network:
    """A network from its image on, with the preprocessing that an export would use, and what its logits mean.

    A network that `normalizes` takes pixels as they are.
    """

    session: Session
    preprocessing: Preprocessing
    activation: Activation
    labels: tuple[str, ...]
    normalizes: bool = False

    def logits(self, images: Iterable[Array]) -> Array:
        """The logits [n,K] or [n,K,h,w] of images float32 [C,H,W], run one by one."""
        unused = {PIXELS: np.zeros((1, *self.preprocessing.shape), np.uint8)}
        found = [self.session.run({**unused, IMAGE: image[None]}, [LOGITS])[LOGITS] for image in images]
        return np.concatenate(found)


def open_network(options: ExportOptions, report: Report) -> Network:
    """Open the source of the options, or the folder of a bundle; raises `BundleError` where that is impossible."""
    folder = Path(options.source)
    if (folder / MANIFEST).is_file():
        return open_bundle(folder)
    try:
        source = open_source(options, report)
    except ValueError as error:  # an invalid manifest, or a network that cannot become a trunk
        raise BundleError(" ".join(str(error).split())) from error
    shape = Graph(source.trunk).shapes[LOGITS]
    labels = choose_labels(options.labels, source.labels, shape[1] or 0, source.head.added is not None)
    return Network(_from_image(source.trunk), source.preprocessing, source.activation, labels, source.normalizes)


def open_bundle(folder: Path) -> Network:
    """Open the trunk of a bundle."""
    manifest = read_manifest(folder)
    trunk = onnx.load(folder / manifest.trunk)
    return Network(_from_image(trunk), manifest.preprocessing, manifest.activation, manifest.labels)


def _from_image(trunk: ModelProto) -> Session:
    """The trunk from its layer `image` on. It may still take the size of the batch from `pixels`."""
    model = ModelProto()
    model.CopyFrom(trunk)
    graph, shape = model.graph, Graph(trunk).shapes[IMAGE]
    nodes = list(required_nodes([node for node in trunk.graph.node if IMAGE not in node.output], {LOGITS}))
    used = {name for node in nodes for name in node.input}
    logits = next(output for output in trunk.graph.output if output.name == LOGITS)
    weights = [tensor for tensor in trunk.graph.initializer if tensor.name in used]
    del graph.node[:], graph.output[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["N", *shape[1:]]))
    graph.output.append(logits)
    return Session(model.SerializeToString(), threads=count_cpus())
