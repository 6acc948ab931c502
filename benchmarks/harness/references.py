"""References of the survey of networks: each network in its own framework, behind the framework's own preprocessing.

The name of a network comes in; out comes a function from a photo to the scores of its classes. Nothing here is
Percept's code, apart from loading the networks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from benchmarks.harness.files import FILES, file_reference
from benchmarks.harness.made_up import SIZE, from_probability, two_classes
from benchmarks.harness.made_up_table import MADE_UP
from percept.imaging.geometry import Map
from percept_models.sources.libraries import import_torchvision, load_source

MADE_UP_PREFIX = "made up: "
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation

Reference = Callable[[Image.Image], Map]  # a photo → scores [K] or [K,h,w]
Transform = Callable[[Image.Image], Tensor]  # a photo → the input of a network, float32 [C,H,W]


def create_made_up(name: str) -> nn.Module:
    """A made-up network with random weights that are the same every time."""
    torch.manual_seed(0)
    return MADE_UP[name].build()


def find_reference(name: str, dtype: torch.dtype) -> Reference:
    """The reference of a network by its name in the table; torch networks compute in `dtype`."""
    if name in FILES:
        return partial(file_reference, FILES[name])
    if name.startswith(MADE_UP_PREFIX):
        key = name.removeprefix(MADE_UP_PREFIX)
        row = MADE_UP[key]
        network, transform, scores = create_made_up(key).eval(), _made_up_transform(row.channels), row.scores
    else:
        network = load_source(name, "none").network.eval()
        transform, scores = _find_transform(name, network), _library_scores(name)
    return partial(_torch_scores, network.to(dtype), lambda photo: transform(photo).to(dtype), scores)


def _torch_scores(network: nn.Module, transform: Transform, scores: Callable[[Any], Tensor], photo: Image.Image) -> Map:
    """Scores from the output of a network; from its output on, in float64."""
    with torch.no_grad():
        output = network(transform(photo)[None])
    return np.asarray(scores(tree_map_only(Tensor, Tensor.double, output))[0])


def _library_scores(source: str) -> Callable[[Any], Tensor]:
    """The function from the output of a library's network to scores; a source may state the network's activation."""

    def scores(output: Any) -> Tensor:
        y = output["out"] if isinstance(output, dict) else output
        if "activation=" in source:
            return from_probability(y) if y.shape[1] == 1 else y
        return two_classes(y) if y.shape[1] == 1 else y.softmax(1)

    return scores


def _normalize(photo: Image.Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """An image, resized to (width, height) by Pillow's bilinear filter and normalized: float32 [C,H,W]."""
    x = torch.from_numpy(np.array(photo.resize(size, Image.Resampling.BILINEAR), np.float32)) / 255
    x = x[..., None] if x.dim() == 2 else x
    return ((x - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)


def _made_up_transform(channels: int) -> Transform:
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return lambda photo: _normalize(photo.convert(mode), (SIZE, SIZE), [0.5] * channels, [0.25] * channels)


def _find_transform(source: str, network: nn.Module) -> Transform:
    """The transform of a library for a network. Where it has none, the photo is squeezed as by the export."""
    library, _, name = source.partition(":")
    if library == "timm":
        return _timm_transform(network)
    if library == "torchvision":
        return _torchvision_transform(name)
    if "in_channels=1" in name:
        return lambda photo: _normalize(photo.convert("L"), (256, 256), (0.5,), (0.25,))
    return lambda photo: _normalize(photo, (256, 256), *IMAGENET)


def _torchvision_transform(name: str) -> Transform:
    """The transform of the weights; a segmenter's keeps the aspect ratio and so has no fixed size."""
    models = import_torchvision().models
    if name in models.list_models(models.segmentation):
        return lambda photo: _normalize(photo, (520, 520), *IMAGENET)
    transform: Transform = models.get_model_weights(name).DEFAULT.transforms()
    return transform


def _timm_transform(network: nn.Module) -> Transform:
    data: Any = import_module("timm.data")
    transform: Transform = data.create_transform(**data.resolve_data_config({}, model=network), is_training=False)
    return transform
