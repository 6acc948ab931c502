"""Manifests for the tests of tasks; no graph stands behind them."""

from percept.bundle.manifest import Manifest
from tests.bundles import LABELS


def create_manifest(task: str, **fields: object) -> Manifest:
    """The manifest of a model of three or four classes, with other `fields` if given."""
    return Manifest.model_validate(
        {
            "name": "m",
            "version": 1,
            "task": task,
            "activation": "softmax",
            "labels": LABELS[task],
            "background": 0 if task == "segmentation" else None,
            "palette": [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]] if task == "segmentation" else [],
            "logits": [3] if task == "classification" else [4, 2, 2],
            "preprocessing": {"height": 8, "width": 8},
            "layers": [{"name": "a", "shape": [1, 2, 2], "stride": [4, 4], "unavailable": "none"}],
            "cam_layer": "a",
            "files": {"trunk.onnx": "0" * 64, "golden.npz": "0" * 64},
            "provenance": {"source": "", "weights": "", "license": ""},
            **fields,
        }
    )
