"""RECIPES: how each built-in bundle is made, from its data set to the measured and verified bundle.

`teach` trains a recipe's network (or takes weights that were trained before), merges its batch norms, exports a
draft, verifies it against torch and measures it on the test split with ONNX Runtime, as it will be served; only
then does the bundle appear, and its filters are drawn into it. `reference` makes the torch network of a built-in
bundle again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from percept.bundle.manifest import IMAGE, Activation, Colour, Preprocessing, Provenance, Task, read
from percept.errors import BundleError
from percept.runtime.session import Session
from percept_models.export.bundle_writer import TRUNK, export, weights
from percept_models.sources.trunk import LOGITS, PIXELS, trace
from percept_models.training import cifar10, clothing
from percept_models.training.blocks import fold
from percept_models.training.loop import Predict
from percept_models.verify.checks import table, verify
from percept_models.visualize.command import visualize


@dataclass(frozen=True)
class Recipe:
    """A built-in network: how it is trained, measured and described.

    `train` takes the folder of the data and a number of epochs, None being the recipe's own; `measure` takes a
    function uint8 [n,3,H,W] -> logits and the folder, and gives figures of the test split by name.
    """

    network: Callable[[], nn.Module]
    train: Callable[[Path, int | None], nn.Module]
    measure: Callable[[Predict, Path], dict[str, float]]
    task: Task
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    layers: tuple[str, ...]
    cam_layer: str
    data: str
    source: str
    activation: Activation = "softmax"
    palette: tuple[Colour, ...] = ()
    background: int | None = None


def _preprocessing(height: int, width: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocessing:
    """The whole photo squeezed to one size; mean and std are given in units of 0..1."""
    m, s = ([255 * v for v in values] for values in (mean, std))
    return Preprocessing(height=height, width=width, mean=(m[0], m[1], m[2]), std=(s[0], s[1], s[2]))


RECIPES: Mapping[str, Recipe] = {
    "cifar10": Recipe(
        network=cifar10.Network,
        train=cifar10.train,
        measure=cifar10.measure,
        task="classification",
        labels=cifar10.CLASSES,
        preprocessing=_preprocessing(32, 32, cifar10.MEAN, cifar10.STD),
        layers=(IMAGE, "stem", "stage1", "stage2"),
        cam_layer="stage2",
        source="models/recipes/cifar10.py",
        data="CIFAR-10 (Krizhevsky 2009), as JPEG copies; it states no licence",
    ),
    "clothing": Recipe(
        network=clothing.Network,
        train=clothing.train,
        measure=clothing.measure,
        task="segmentation",
        labels=clothing.CLASSES,
        preprocessing=_preprocessing(clothing.HEIGHT, clothing.WIDTH, clothing.MEAN, clothing.STD),
        layers=(
            *(IMAGE, "stem", "stage1", "stage2", "stage3", "stage4"),
            *("smooth4", "smooth3", "smooth2", "smooth1", "merge"),
        ),
        cam_layer="merge",
        source="models/recipes/clothing.py",
        data="Clothing Co-Parsing (Yang et al. 2014), 8 classes merged from its 59; Apache-2.0",
        palette=(
            (0, 0, 0),
            (240, 228, 66),
            (255, 170, 120),
            (40, 120, 240),
            (210, 70, 200),
            (0, 170, 100),
            (230, 50, 40),
            (90, 220, 250),
        ),
        background=0,
    ),
}


def teach(name: str, data: Path, out: Path, epochs: int | None = None, trained: Path | None = None) -> Path:
    """Make the bundle `<out>/<name>/1` of a recipe and return its folder.

    `trained` is a file with the state dict of the recipe's network; with it nothing is trained. Raises
    `BundleError` where the bundle does not compute what torch computes, or exists already.
    """
    recipe = RECIPES[name]
    if trained is None:
        network = recipe.train(data, epochs)
    else:
        network = recipe.network()
        network.load_state_dict(torch.load(trained, map_location="cpu", weights_only=True))
    network = fold(network.cpu().eval())
    with TemporaryDirectory() as scratch:
        draft = bundle(name, network, {}, Path(scratch))
        checks = verify(draft, network)
        print(table(checks), flush=True)
        if not all(check.passed for check in checks):
            raise BundleError(f"{name} does not compute what its torch network computes")
        metrics = recipe.measure(served(draft), data)
    for metric, value in metrics.items():
        print(f"{metric} {value:.4f}", flush=True)
    folder = bundle(name, network, metrics, out)
    visualize(folder)
    return folder


def bundle(name: str, network: nn.Module, metrics: Mapping[str, float], out: Path) -> Path:
    """Export a recipe's network, folded and in `eval` mode, as `<out>/<name>/1`."""
    recipe = RECIPES[name]
    return export(
        trace(network, recipe.preprocessing, recipe.layers),
        name=name,
        version=1,
        task=recipe.task,
        labels=recipe.labels,
        activation=recipe.activation,
        preprocessing=recipe.preprocessing,
        layers=recipe.layers,
        cam_layer=recipe.cam_layer,
        palette=recipe.palette,
        background=recipe.background,
        provenance=Provenance(
            source=recipe.source,
            weights="trained from scratch by this recipe",
            license="Apache-2.0",
            data=recipe.data,
            metrics={metric: round(value, 4) for metric, value in metrics.items()},
        ),
        out=out,
    )


def reference(folder: Path) -> nn.Module:
    """The torch network of a built-in bundle with the bundle's own weights, in `eval` mode.

    Raises `KeyError` where no recipe has the bundle's name.
    """
    network = fold(RECIPES[read(folder).name].network().eval())
    network.load_state_dict(weights(folder))
    return network


def served(folder: Path) -> Predict:
    """The trunk of a bundle in ONNX Runtime as a function uint8 [n,3,H,W] -> float32 logits."""
    trunk = Session(folder / TRUNK)

    def predict(pixels: Tensor) -> Tensor:
        rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(trunk.run({PIXELS: rows}, [LOGITS])[LOGITS])

    return predict
