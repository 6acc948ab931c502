"""The graphs of one bundle in ONNX Runtime, run on the images on which the bundle is verified.

In come the bundle's folder and images; out come the trunk's outputs and what each tail computes from them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from percept.bundle.manifest import Layer, Manifest, seed_name
from percept.runtime.session import Device, GpuOptions, Session
from percept_models.autodiff.tail import ACTIVATIONS, LOGITS, SEED
from percept_models.graph.reader import Array
from percept_models.sources.trunk import PIXELS


class BundleRunner:
    """A bundle, the images uint8 [N,H,W,3] on which it is verified, its outputs for them and a random seed.

    `outputs` holds the trunk's logits and layers by name; `seed` float32 has the shape of the logits.
    """

    def __init__(self, folder: Path, manifest: Manifest, pixels: Array) -> None:
        """Run the trunk; a single image is first augmented to eight."""
        self.folder = folder
        self.manifest = manifest
        self.pixels = _augment(pixels) if len(pixels) == 1 else pixels
        self.layers_with_tails = [layer for layer in manifest.layers if layer.tail]
        self._sessions: dict[tuple[str, Device], Session] = {}
        self.outputs = self.run_trunk()
        self.seed = np.random.default_rng(0).uniform(-1, 1, self.outputs[LOGITS].shape).astype(np.float32)

    def run_trunk(self, device: Device = "cpu") -> dict[str, Array]:
        """All outputs of the trunk by name."""
        return self._run(self.manifest.trunk, {PIXELS: self.pixels}, device)

    def run_tail(
        self, layer: Layer, outputs: Mapping[str, Array], seed: Array, device: Device = "cpu", layer_means: bool = False
    ) -> dict[str, Array]:
        """The logits and gradients of a layer's tail for a trunk's outputs.

        The gradients are those of sum(seed * logits); with `layer_means`, plus the mean of every layer that has a seed
        of its own. Without it these layers' seeds are zero.
        """
        assert layer.tail is not None
        feeds = {name: outputs[name] for name in layer.tail.crossing}
        for name in layer.tail.seeds:
            weight = 1 / outputs[name][0].size if layer_means else 0.0
            feeds[seed_name(name)] = np.full((1, 1, 1, 1), weight, np.float32)
        return self._run(layer.tail.file, {ACTIVATIONS: outputs[layer.name], SEED: seed, **feeds}, device)

    def _run(self, file: str, feeds: dict[str, Array], device: Device) -> dict[str, Array]:
        session = self._session(file, device)
        return session.run(feeds, list(session.outputs))

    def _session(self, file: str, device: Device) -> Session:
        if (file, device) not in self._sessions:
            half = self.manifest.precision == "float16" and file == self.manifest.trunk
            self._sessions[file, device] = Session(
                self.folder / file, device, gpu_options=GpuOptions(tf32=self.manifest.tf32, half=half)
            )
        return self._sessions[file, device]


def _augment(pixels: Array) -> Array:
    """Eight images [8,H,W,3] of one [1,H,W,3]: flipped, with the channels reversed, and the negatives."""
    images = [pixels, pixels[:, ::-1], pixels[:, :, ::-1], pixels[..., ::-1]]
    return np.concatenate([*images, *(255 - image for image in images)])
