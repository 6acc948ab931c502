"""`python benchmarks/family_speed.py [NAME ...] [--small]`: export every supported family of networks.

Each network is exported, verified against torch, loaded by the service and timed. The output is the table of
`docs/export.md`; the exit status is 1 if a network fails. Weights are random: the table shows that the bundle computes
what torch computes, not how accurate a network is.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from torch import nn

# For the networks of the tests, and so that `percept export` finds the source `benchmarks.family_speed:create_network`.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness.report import format_row, format_table
from percept.bundle.manifest import Layer
from percept.runtime.network import Network, TrunkInput
from percept_models.export.convert import convert
from percept_models.export.options import ExportOptions
from percept_models.export.report import Report
from percept_models.sources.libraries import load_source
from percept_models.verify.bundle import verify_bundle
from percept_models.verify.checks import GRADIENT_LIMIT, LIMIT
from tests.percept_models import networks


@dataclass(frozen=True)
class Family:
    """A source and the size of its input; `small` is the size in tests."""

    source: str
    size: int
    small: int


FAMILIES: Mapping[str, Family] = {
    "AlexNet": Family("torchvision:alexnet", 224, 127),
    "VGG": Family("torchvision:vgg16", 224, 64),
    "GoogLeNet": Family("torchvision:googlenet", 224, 64),
    "Inception v3": Family("torchvision:inception_v3", 299, 128),
    "ResNet": Family("torchvision:resnet50", 224, 64),
    "ResNeXt": Family("torchvision:resnext50_32x4d", 224, 64),
    "DenseNet": Family("torchvision:densenet121", 224, 64),
    "MobileNet v2": Family("torchvision:mobilenet_v2", 224, 64),
    "MobileNet v3": Family("torchvision:mobilenet_v3_large", 224, 64),
    "Xception": Family("timm:xception41", 299, 64),
    "SqueezeNet": Family("torchvision:squeezenet1_1", 224, 65),
    "EfficientNet": Family("torchvision:efficientnet_b0", 224, 64),
    "ConvNeXt": Family("torchvision:convnext_tiny", 224, 64),
    "FPN": Family("smp:FPN?encoder_name=resnet34&classes=5", 256, 64),
    "U-Net": Family("smp:Unet?encoder_name=resnet34&classes=5", 256, 64),
    "DeepLabV3": Family("torchvision:deeplabv3_resnet50", 256, 64),
    "DeepLabV3+": Family("smp:DeepLabV3Plus?encoder_name=resnet34&classes=5", 256, 64),
    "FCN": Family("torchvision:fcn_resnet50", 128, 64),
    "PSPNet": Family("smp:PSPNet?encoder_name=resnet34&classes=5", 256, 64),
    "LR-ASPP": Family("torchvision:lraspp_mobilenet_v3_large", 256, 64),
}
HEADINGS = ("family", "source", "size", "logits", "CAM layer", "gradients", "stage before", "gradients")
TIMES = ("export s", "load s", "predict ms", "Grad-CAM ms")


def create_network(family: str, size: int) -> nn.Module:
    """The network of a family with random weights and calibrated batch norms."""
    return networks.calibrate_batch_norm(load_source(FAMILIES[family].source, "none").network, size)


def export_family(family: str, size: int, out: Path, report: Report = lambda _: None) -> Path:
    """Export the bundle of a family as `percept export` does; raises `BundleError` if the verification fails."""
    return convert(
        ExportOptions(
            source=f"benchmarks.family_speed:create_network?family={family.replace('+', '%2B')}&size={size}",
            name="family",
            out=out,
            preprocessing={"height": size, "width": size, "resize": "squeeze"},
        ),
        report,
    )


def load_bundle(folder: Path) -> tuple[Network, list[Layer]]:
    """Load a bundle as the service does; return it with its CAM layer and the layer before that."""
    network = Network(folder, "cpu", threads=1)
    layers = network.manifest.layers
    cam = next(layer for layer in layers if layer.name == network.manifest.cam_layer)
    return network, [cam, layers[max(layers.index(cam) - 1, 0)]]


def measure(family: str, size: int, scratch: Path) -> tuple[str, ...]:
    """Measure one row of the table."""
    start = perf_counter()
    folder = export_family(family, size, scratch)
    export_s = perf_counter() - start
    start = perf_counter()
    network, layers = load_bundle(folder)
    load_s = perf_counter() - start
    checks = {check.name: check for check in verify_bundle(folder, create_network(family, size))}
    gradients = [checks[f"{layer.name} gradients"].error for layer in layers]
    if checks["logits"].error > LIMIT or max(gradients) > GRADIENT_LIMIT:
        raise SystemExit(f"{family} does not agree with torch: {checks['logits'].error:.0e}, {gradients}")
    predict_s, cam_s = time_passes(network, layers[0])
    cells = [f"`{layer.name}` {'x'.join(map(str, layer.shape))}" for layer in layers]
    layer_cells = (cells[0], f"{gradients[0]:.0e}", cells[1], f"{gradients[1]:.0e}")
    times = (f"{export_s:.0f}", f"{load_s:.1f}", f"{1e3 * predict_s:.0f}", f"{1e3 * cam_s:.0f}")
    return (family, f"`{FAMILIES[family].source}`", str(size), f"{checks['logits'].error:.0e}", *layer_cells, *times)


def time_passes(network: Network, layer: Layer, rounds: int = 5) -> tuple[float, float]:
    """The median seconds of a prediction and of a prediction with its gradients, on one thread."""
    pixels = np.zeros((network.manifest.preprocessing.height, network.manifest.preprocessing.width, 3), np.uint8)
    trunk_input = TrunkInput(pixels, network.outputs_for_gradients(layer))
    seed = np.ones(network.manifest.logits, np.float32)
    spent = []
    for _ in range(rounds):
        start = perf_counter()
        (outputs,) = network.run_trunk([trunk_input])
        predict_s = perf_counter() - start
        network.compute_gradients(layer, outputs, seed)
        spent.append((predict_s, perf_counter() - start))
    predict_s, cam_s = np.median(spent, axis=0)
    return float(predict_s), float(cam_s)


def main() -> None:
    """Print each row of the table as soon as it is measured."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=[], metavar="NAME", help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--small", action="store_true", help="use the small inputs of the tests")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(format_table((*HEADINGS, *TIMES), ()))
    for name in options.families or FAMILIES:
        family = FAMILIES[name]
        with TemporaryDirectory() as scratch:
            row = measure(name, family.small if options.small else family.size, Path(scratch))
        print(format_row(row), flush=True)


if __name__ == "__main__":
    main()
