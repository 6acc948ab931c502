"""METHODS: how a heatmap is made, each a generator that asks for work and does none of it.

A run of a method yields asks, gets their answers, and returns the map before ReLU, float32 [h,w] in cells of the
layer. Who drives it applies the seed, keeps the deadline, and may close it at any yield: a method knows no class, no
network and no time. What an ask answers is y, the sum of seed * logits, one for each row.

Letters: A [C,h,w] activations, y of the image as it is, g = dy/dA, y(...) what y would be of something else. In every
map 0 means that a place says nothing about y: nothing is added that only a stretch from minimum to maximum would hide.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Literal

from percept.explain import maps as maps
from percept.explain.gradient_methods import integrated_gradients, smoothgrad
from percept.explain.maps import Array
from percept.explain.perturbation_methods import ablationcam, occlusion, reciprocam, rise, scorecam
from percept.explain.protocol import (
    MethodInput,
    MethodRun,
    gradient_pass,
)

Needs = Literal["activations", "gradients", "tail", "image"]


@dataclass(frozen=True)
class Method:
    """A row of `METHODS`.

    `needs` says what `run` asks for: nothing but the activations, the tail with gradients, the tail forward, or the
    whole network; `classes` whether its map is about y at all; `linear` whether it is defined only where the tail is
    linear with one weight per channel, which who drives it must see to; `alone` whether it shows g without A, and so
    nothing where the tail is linear; `pixels` whether it means something at the image, whose channels are no features.
    """

    run: Callable[[MethodInput], MethodRun]
    needs: Needs
    paper: str
    classes: bool = True
    linear: bool = False
    alone: bool = False
    pixels: bool = False


# From activations, with or without one gradient


def _from_activations(act: Callable[[Array], Array]) -> Callable[[MethodInput], MethodRun]:
    """The run that asks for nothing."""

    @wraps(act)
    def run(scene: MethodInput) -> MethodRun:
        yield from ()
        return act(scene.A)

    return run


def _from_gradients(act: Callable[[Array, Array], Array]) -> Callable[[MethodInput], MethodRun]:
    """The run that asks for the gradients of the image as it is and nothing else."""

    @wraps(act)
    def run(scene: MethodInput) -> MethodRun:
        return act(scene.A, (yield from gradient_pass(scene)).g)

    return run


# From many gradients


# From forward passes of the tail


# From forward passes of the whole network


METHODS: dict[str, Method] = {
    "cam": Method(_from_gradients(maps.cam), "gradients", "Zhou 2016, arXiv:1512.04150", linear=True),
    "gradcam": Method(_from_gradients(maps.gradcam), "gradients", "Selvaraju 2017, arXiv:1610.02391"),
    "gradcam++": Method(_from_gradients(maps.gradcam_plus_plus), "gradients", "Chattopadhay 2018, arXiv:1710.11063"),
    "xgradcam": Method(_from_gradients(maps.xgradcam), "gradients", "Fu 2020, arXiv:2008.02312"),
    "hirescam": Method(_from_gradients(maps.hirescam), "gradients", "Draelos 2020, arXiv:2011.08891"),
    "layercam": Method(_from_gradients(maps.layercam), "gradients", "Jiang 2021, doi:10.1109/TIP.2021.3089943"),
    "eigencam": Method(
        _from_activations(maps.eigencam), "activations", "Muhammad 2020, arXiv:2008.00299", classes=False
    ),
    "eigengradcam": Method(_from_gradients(maps.eigengradcam), "gradients", "Muhammad 2020, arXiv:2008.00299"),
    "reciprocam": Method(reciprocam, "tail", "Byun 2022, arXiv:2209.14074"),
    "ablationcam": Method(ablationcam, "tail", "Desai 2020, doi:10.1109/WACV45572.2020.9093360"),
    "scorecam": Method(scorecam, "image", "Wang 2020, arXiv:1910.01279"),
    "saliency": Method(
        _from_gradients(maps.saliency), "gradients", "Simonyan 2014, arXiv:1312.6034", alone=True, pixels=True
    ),
    "integrated_gradients": Method(
        integrated_gradients, "gradients", "Sundararajan 2017, arXiv:1703.01365", pixels=True
    ),
    "smoothgrad": Method(smoothgrad, "gradients", "Smilkov 2017, arXiv:1706.03825", alone=True, pixels=True),
    "occlusion": Method(occlusion, "image", "Zeiler 2014, arXiv:1311.2901", pixels=True),
    "rise": Method(rise, "image", "Petsiuk 2018, arXiv:1806.07421", pixels=True),
}
