"""METHODS: the table of explanation methods. Every row's `run` makes a generator of the protocol.

A run returns the map before ReLU, float32 [h,w] in cells of the layer. The runner executes its requests, applies the
seed and may close the run at any request: a method knows no class, no network and no deadline.

In every map 0 means that a cell has no effect on y: no method adds a constant, which only a stretch from minimum to
maximum would hide. The functions are in `maps` (closed forms of A and g, such as Grad-CAM++), `gradients` (several
gradients) and `perturbations` (forward passes of perturbed activations or images).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Literal

from percept.explain import maps
from percept.explain.maps import Array
from percept.explain.methods.gradients import integrated_gradients, smoothgrad
from percept.explain.methods.perturbations import ablationcam, occlusion, reciprocam, rise, scorecam
from percept.explain.methods.protocol import MethodInput, MethodRun, gradient_pass

Needs = Literal["activations", "gradients", "tail", "image"]


@dataclass(frozen=True)
class Method:
    """A row of `METHODS`.

    `needs` says what `run` requests: nothing beyond the activations, passes of the tail with gradients, forward passes
    of the tail, or passes of the whole network. `class_specific` says whether the map depends on y. A method that
    `needs_uniform_gradients` is defined only behind global average pooling and one linear layer, where g is one weight
    per channel. A method that `needs_varying_gradients` shows g without A; behind such a head it would show the same
    value in every cell. `at_image` says whether the method makes sense at the layer `image`, whose channels are colours
    and not features.
    """

    run: Callable[[MethodInput], MethodRun]
    needs: Needs
    paper: str
    class_specific: bool = True
    needs_uniform_gradients: bool = False
    needs_varying_gradients: bool = False
    at_image: bool = False


def _from_activations(make_map: Callable[[Array], Array]) -> Callable[[MethodInput], MethodRun]:
    """A method that computes its map from A alone and requests nothing."""

    @wraps(make_map)
    def run(inputs: MethodInput) -> MethodRun:
        yield from ()
        return make_map(inputs.A)

    return run


def _from_gradients(make_map: Callable[[Array, Array], Array]) -> Callable[[MethodInput], MethodRun]:
    """A method that computes its map from A and g, and requests g once."""

    @wraps(make_map)
    def run(inputs: MethodInput) -> MethodRun:
        return make_map(inputs.A, (yield from gradient_pass(inputs)).g)

    return run


METHODS: dict[str, Method] = {
    "cam": Method(_from_gradients(maps.cam), "gradients", "Zhou 2016, arXiv:1512.04150", needs_uniform_gradients=True),
    "gradcam": Method(_from_gradients(maps.gradcam), "gradients", "Selvaraju 2017, arXiv:1610.02391"),
    "gradcam++": Method(_from_gradients(maps.gradcam_plus_plus), "gradients", "Chattopadhay 2018, arXiv:1710.11063"),
    "xgradcam": Method(_from_gradients(maps.xgradcam), "gradients", "Fu 2020, arXiv:2008.02312"),
    "hirescam": Method(_from_gradients(maps.hirescam), "gradients", "Draelos 2020, arXiv:2011.08891"),
    "layercam": Method(_from_gradients(maps.layercam), "gradients", "Jiang 2021, doi:10.1109/TIP.2021.3089943"),
    "eigencam": Method(
        _from_activations(maps.eigencam), "activations", "Muhammad 2020, arXiv:2008.00299", class_specific=False
    ),
    "eigengradcam": Method(_from_gradients(maps.eigengradcam), "gradients", "Muhammad 2020, arXiv:2008.00299"),
    "reciprocam": Method(reciprocam, "tail", "Byun 2022, arXiv:2209.14074"),
    "ablationcam": Method(ablationcam, "tail", "Desai 2020, doi:10.1109/WACV45572.2020.9093360"),
    "scorecam": Method(scorecam, "image", "Wang 2020, arXiv:1910.01279"),
    "saliency": Method(
        _from_gradients(maps.saliency),
        "gradients",
        "Simonyan 2014, arXiv:1312.6034",
        needs_varying_gradients=True,
        at_image=True,
    ),
    "integrated_gradients": Method(
        integrated_gradients, "gradients", "Sundararajan 2017, arXiv:1703.01365", at_image=True
    ),
    "smoothgrad": Method(
        smoothgrad, "gradients", "Smilkov 2017, arXiv:1706.03825", needs_varying_gradients=True, at_image=True
    ),
    "occlusion": Method(occlusion, "image", "Zeiler 2014, arXiv:1311.2901", at_image=True),
    "rise": Method(rise, "image", "Petsiuk 2018, arXiv:1806.07421", at_image=True),
}
