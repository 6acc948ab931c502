"""The result of an explanation: one map of one image."""

from dataclasses import dataclass

from percept.bundle.manifest import Layer
from percept.explain.faithfulness import Faithfulness
from percept.explain.regions import HotRegion
from percept.imaging.geometry import Map
from percept.tasks.input_image import InputImage


@dataclass(frozen=True, eq=False)
class Explanation:
    """One map: `raw` before ReLU and `heat` in [0,1], both float32 [h,w] in cells of the layer.

    If several layers are fused, `raw` is the fused heat at the resolution of the finest layer. `influence` [H,W] is the
    gradient norm of the hottest cell at the network's pixels, and `regions` are the hot regions: both only on request.
    """

    image: InputImage
    layers: tuple[Layer, ...]
    method: str
    target: int
    against: int | None
    score: float
    raw: Map
    heat: Map
    faithfulness: Faithfulness | None = None
    influence: Map | None = None
    regions: tuple[HotRegion, ...] | None = None

    @property
    def layer(self) -> str:
        """The names of its layers, joined by a plus as in the request."""
        return "+".join(layer.name for layer in self.layers)
