"""MADE_UP: every network of `made_up`, by name."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness.made_up import (
    ACTIVATIONS,
    NORMALIZATIONS,
    POOLINGS,
    RESHAPES,
    UPSAMPLINGS,
    AlwaysTraining,
    Apply,
    Detections,
    MadeUp,
    NamedLogits,
    Residual,
    attention,
    body,
    classifier,
    from_probability,
    identity,
    mean,
    median,
    named,
    one_hot,
    option_a_shortcut,
    segmenter,
    spatial_transformer,
    top_ten,
    two_classes,
    unpooling,
    up,
    with_output,
)

HEADS: Mapping[str, MadeUp] = {
    "softmax": MadeUp(lambda: classifier(end=nn.Softmax(1)), identity),
    "log-softmax": MadeUp(lambda: classifier(end=nn.LogSoftmax(1)), torch.exp),
    "sigmoid of five labels": MadeUp(lambda: classifier(end=nn.Sigmoid()), identity),
    "one logit": MadeUp(lambda: classifier(classes=1), two_classes),
    "one logit, squeezed": MadeUp(lambda: classifier(classes=1, end=Apply(lambda y: y.squeeze(1))), two_classes),
    "one sigmoid": MadeUp(lambda: classifier(classes=1, end=nn.Sigmoid()), from_probability),
    "one sigmoid, squeezed": MadeUp(
        lambda: classifier(classes=1, end=Apply(lambda y: y.sigmoid().squeeze(1))), from_probability
    ),
    "index of the class": MadeUp(lambda: classifier(end=Apply(lambda y: y.argmax(1))), one_hot(5), only_class=True),
    "logits cut by a slice": MadeUp(lambda: classifier(classes=9, end=Apply(lambda y: y[:, :5]))),
    "convolution and flatten": MadeUp(
        lambda: nn.Sequential(body(), nn.Conv2d(16, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ),
    "cosine similarity": MadeUp(lambda: with_output(lambda y: 10 * F.normalize(y, dim=1))),
    "list of one": MadeUp(lambda: with_output(lambda y: [y]), lambda y: y[0].softmax(1)),
    "dictionary with logits": MadeUp(lambda: with_output(lambda y: {"logits": y}), lambda y: y["logits"].softmax(1)),
    "named tuple with logits": MadeUp(lambda: with_output(lambda y: NamedLogits(y)), lambda y: y.logits.softmax(1)),
    "two outputs": MadeUp(lambda: with_output(lambda y: (y, y[:, :2])), refused="--output"),
    "two outputs, one chosen": MadeUp(
        lambda: with_output(lambda y: (y[:, :2], y)), lambda y: y[1].softmax(1), options={"output": "1"}
    ),
    "two keys": MadeUp(lambda: with_output(lambda y: {"age": y, "gender": y[:, :2]}), refused="--output"),
    "dataclass of two": MadeUp(lambda: with_output(lambda y: Detections(y, y[:, :4])), refused="--output"),
    "text": MadeUp(lambda: with_output(str), refused="str"),
    "segmenter": MadeUp(lambda: segmenter()),
    "segmenter, softmax": MadeUp(lambda: segmenter(*up(nn.Softmax(1))), identity),
    "segmenter, sigmoids": MadeUp(lambda: segmenter(*up(nn.Sigmoid())), identity),
    "segmenter, one logit": MadeUp(lambda: segmenter(classes=1), two_classes),
    "segmenter, one sigmoid": MadeUp(lambda: segmenter(*up(nn.Sigmoid()), classes=1), from_probability),
    "segmenter, mask [N,h,w]": MadeUp(
        lambda: segmenter(*up(Apply(lambda y: y.sigmoid()[:, 0])), classes=1), from_probability
    ),
    "segmenter, index": MadeUp(lambda: segmenter(*up(Apply(lambda y: y.argmax(1)))), one_hot(5), only_class=True),
    "segmenter, deep supervision": MadeUp(
        lambda: nn.Sequential(segmenter(), Apply(lambda y: [y, y * 2])), refused="--output"
    ),
}
INPUTS: Mapping[str, MadeUp] = {
    "one channel": MadeUp(lambda: nn.Sequential(body(1), Apply(mean), nn.Linear(16, 5)), channels=1),
    "four channels": MadeUp(lambda: nn.Sequential(body(4), Apply(mean), nn.Linear(16, 5)), channels=4),
    "seven channels": MadeUp(
        lambda: nn.Sequential(body(7), Apply(mean), nn.Linear(16, 5)), refused="channels", channels=7
    ),
    "identity first": MadeUp(lambda: nn.Sequential(nn.Identity(), *classifier())),
    "z-score of the image": MadeUp(
        lambda: nn.Sequential(
            Apply(lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)), *classifier()
        )
    ),
    "half-precision weights": MadeUp(lambda: classifier().half()),
    "casts the image itself": MadeUp(
        lambda: nn.Sequential(Apply(torch.Tensor.double), *classifier().double()), refused="cast"
    ),
    "channels-last memory": MadeUp(lambda: channels_last(classifier())),
    "space to depth": MadeUp(
        lambda: nn.Sequential(Apply(lambda x: F.pixel_unshuffle(x, 2)), body(12), Apply(mean), nn.Linear(16, 5))
    ),
}
STRUCTURES: Mapping[str, MadeUp] = {
    "flatten by view": MadeUp(
        lambda: nn.Sequential(body(), Apply(lambda x: x.view(x.size(0), -1)), nn.Linear(16 * 256, 5))
    ),
    "flatten by view(-1, n)": MadeUp(
        lambda: nn.Sequential(body(), Apply(lambda x: x.view(-1, 16 * 256)), nn.Linear(16 * 256, 5))
    ),
    "module used twice": MadeUp(lambda: classifier(*[nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())] * 2)),
    "operations in place": MadeUp(lambda: classifier(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(inplace=True))),
    "residual": MadeUp(lambda: classifier(Residual(nn.Conv2d(16, 16, 3, 1, 1)))),
    "shortcut of option A": MadeUp(
        lambda: classifier(Residual(nn.Conv2d(16, 32, 3, 2, 1), option_a_shortcut), width=32)
    ),
    "weight normalization": MadeUp(
        lambda: classifier(nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3, 1, 1)), nn.ReLU())
    ),
    "old weight normalization": MadeUp(lambda: classifier(nn.utils.weight_norm(nn.Conv2d(16, 16, 3, 1, 1)), nn.ReLU())),
    "spectral normalization": MadeUp(
        lambda: classifier(nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 16, 3, 1, 1)), nn.ReLU())
    ),
    "transposed convolution": MadeUp(lambda: classifier(nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1))),
    "grouped and dilated": MadeUp(lambda: classifier(nn.Conv2d(16, 16, 3, 1, 2, dilation=2, groups=16), nn.ReLU())),
    "attention": MadeUp(lambda: classifier(attention())),
    "top ten cells": MadeUp(lambda: classifier(nn.Conv2d(16, 16, 1), Apply(top_ten))),
    "median cell": MadeUp(lambda: classifier(nn.Conv2d(16, 16, 1), Apply(median))),
    "spatial transformer": MadeUp(lambda: classifier(spatial_transformer())),
    "unpooling": MadeUp(unpooling),
    "Fourier transform": MadeUp(lambda: classifier(Apply(lambda x: torch.fft.rfft2(x).abs()))),
    "names that begin with _": MadeUp(lambda: named(_body=body(), _pool=Apply(mean), _fc=nn.Linear(16, 5))),
    "names of other alphabets": MadeUp(lambda: named(größe=body(), 平均=Apply(mean), fc=nn.Linear(16, 5))),
    "data parallel": MadeUp(lambda: nn.DataParallel(classifier())),
    "batch statistics": MadeUp(lambda: classifier(nn.BatchNorm2d(16, track_running_stats=False)), refused="batch"),
    "training mode": MadeUp(lambda: AlwaysTraining(classifier(nn.Dropout(0.5))), refused="training"),
    "random at run time": MadeUp(lambda: classifier(Apply(lambda x: F.dropout(x, 0.5))), refused="random"),
    "decides at run time": MadeUp(
        lambda: classifier(Apply(lambda x: x * 2 if x.mean() > 0 else x)), refused="depends on the values"
    ),
    "not finite": MadeUp(lambda: classifier(end=Apply(lambda y: y / 0 * 0)), refused="finite"),
}


def channels_last(network: nn.Module) -> nn.Module:
    """A network whose weights lie in memory channels last."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def with_module(create: Callable[[], nn.Module]) -> nn.Module:
    """A classifier with a module and a convolution behind it."""
    return classifier(create(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())


def with_function(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A classifier whose features go through a function."""
    return classifier(Apply(function))


MADE_UP: Mapping[str, MadeUp] = {
    **{f"activation: {name}": MadeUp(partial(with_module, create)) for name, create in ACTIVATIONS.items()},
    **{f"normalization: {name}": MadeUp(partial(with_module, create)) for name, create in NORMALIZATIONS.items()},
    **{f"pooling: {name}": MadeUp(partial(with_function, function)) for name, function in POOLINGS.items()},
    **{f"features: {name}": MadeUp(partial(with_function, function)) for name, function in RESHAPES.items()},
    **{f"upsampling: {name}": MadeUp(partial(segmenter, module)) for name, module in UPSAMPLINGS.items()},
    **{f"output: {name}": row for name, row in HEADS.items()},
    **{f"input: {name}": row for name, row in INPUTS.items()},
    **{f"structure: {name}": row for name, row in STRUCTURES.items()},
}
