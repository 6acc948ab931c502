"""Small real bundles with known answers, built with onnx alone, without the export toolchain.

The network detects colours: channel k of its only layer, `colour`, is the mean over a cell of relu(2 c_k - the two
other colours) / 510. White and grey give 0; a marker of a pure colour activates its channel in the cells it covers.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from percept.bundle.manifest import Layer, Manifest

LABELS = {
    "classification": ["red", "green", "blue"],
    "segmentation": ["ground", "red", "green", "blue"],
}
# Each colour counts twice, minus the two others: 0 for white and grey.
COLOUR_WEIGHTS = np.array([[2, -1, -1], [-1, 2, -1], [-1, -1, 2]], np.float32) / 510
GROUND_LOGIT = 0.5
CELL = 4  # pixels of a side


def create_bundle(
    root: Path,
    name: str = "marker",
    version: int = 1,
    task: str = "classification",
    tail: bool = True,
    **preprocessing: Any,
) -> Path:
    """Write the bundle `root/name/version` and return its folder."""
    rule = {"height": 32, "width": 32, **preprocessing}
    h, w = rule["height"] // CELL, rule["width"] // CELL
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    logits: tuple[int, ...] = (3,) if task == "classification" else (4, h, w)
    _save_model(folder / "trunk.onnx", _create_trunk(rule["height"], rule["width"], h, w, logits))
    _save_model(folder / "tail.colour.onnx", _create_tail(h, w, logits))
    _write_golden(folder, rule["height"], rule["width"])
    manifest = {
        "name": name,
        "version": version,
        "task": task,
        "activation": "softmax",
        "labels": LABELS[task],
        "background": None if task == "classification" else 0,
        "palette": [] if task == "classification" else [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]],
        "logits": logits,
        "preprocessing": rule,
        "layers": [
            {
                "name": "colour",
                "shape": [3, h, w],
                "stride": [CELL, CELL],
                "receptive_field": {"size": [CELL, CELL], "start": [CELL / 2, CELL / 2]},
                **({"tail": {"file": "tail.colour.onnx"}} if tail else {"unavailable": "no rule for Colour"}),
            }
        ],
        "cam_layer": "colour",
        "files": {f.name: _sha256(f) for f in folder.iterdir()},
        "provenance": {"source": "tests/bundles.py", "weights": "by hand", "license": "Apache-2.0"},
    }
    write_manifest(folder, manifest)
    return folder


def make_not_finite(folder: Path, file: str, output: str, source: str, value: str) -> None:
    """Change a graph of a bundle: where `source` is above 0.7, as for pure colours, `output` is `nan` or `inf`."""
    model = onnx.load(folder / file)
    graph = model.graph
    for node in graph.node:
        node.output[:] = [f"finite_{name}" if name == output else name for name in node.output]
        node.input[:] = [f"finite_{name}" if name == output else name for name in node.input]
    source = f"finite_{source}" if source == output else source
    function, slope = ("Sqrt", -1) if value == "nan" else ("Exp", 1000)
    constants = {"limit": np.float32(0.7), "slope": np.float32(slope), "zero": np.float32(0)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items())
    graph.node.extend(
        [
            helper.make_node("Sub", [source, "limit"], ["above"]),
            helper.make_node("Mul", ["above", "slope"], ["steep"]),
            helper.make_node(function, ["steep"], ["term"]),
            helper.make_node("Mul", ["term", "zero"] if value == "nan" else ["term", "term"], ["added"]),
            helper.make_node("Add", [f"finite_{output}", "added"], [output]),
        ]
    )
    _save_model(folder / file, model)
    if file == "trunk.onnx":
        manifest = read_manifest_json(folder)
        _write_golden(folder, manifest["preprocessing"]["height"], manifest["preprocessing"]["width"])
    write_manifest(folder, read_manifest_json(folder), rehash=True)


def read_manifest_json(folder: Path) -> dict[str, Any]:
    """The manifest as plain JSON, unchecked."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def write_manifest(folder: Path, manifest: dict[str, Any], rehash: bool = False) -> None:
    """Write a manifest; `rehash` first updates the hashes of its files."""
    if rehash:
        manifest["files"] = {name: _sha256(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def find_layer(manifest: Manifest, name: str | None = None) -> Layer:
    """The layer with this name, by default the CAM layer; fails the test where there is none."""
    layer = manifest.layer(name or manifest.cam_layer)
    assert layer, f"{manifest.name} has no layer {name!r}"
    return layer


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _write_golden(folder: Path, height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    session = ort.InferenceSession(folder / "trunk.onnx")
    logits = session.run(["logits"], {"pixels": pixels})[0]
    np.savez(folder / "golden.npz", pixels=pixels, logits=logits)


def _save_model(file: Path, model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString())


def _create_model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    outputs: dict[str, list[int | str]],
    constants: dict[str, np.ndarray],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "marker",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, T.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _create_head(logits: tuple[int, ...], source: str) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """From the layer to the logits: the mean of each channel, or for each cell its colours and the ground."""
    if len(logits) == 1:
        axes = {"axes": np.array([2, 3])}
        return [helper.make_node("ReduceMean", [source, "axes"], ["logits"], keepdims=0)], axes
    weights = np.concatenate([np.zeros((1, 3)), np.eye(3)]).astype(np.float32)[:, :, None, None]
    bias = np.array([GROUND_LOGIT, 0, 0, 0], np.float32)
    node = helper.make_node("Conv", [source, "weights", "bias"], ["logits"])
    return [node], {"weights": weights, "bias": bias}


def _create_trunk(height: int, width: int, h: int, w: int, logits: tuple[int, ...]) -> onnx.ModelProto:
    head, constants = _create_head(logits, "colour")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=T.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "colours"], ["signed"]),
        helper.make_node("Relu", ["signed"], ["fine"]),
        helper.make_node("AveragePool", ["fine"], ["colour"], kernel_shape=[CELL] * 2, strides=[CELL] * 2),
        *head,
    ]
    return _create_model(
        nodes,
        {"pixels": (T.UINT8, ["N", height, width, 3])},
        {"logits": ["N", *logits], "colour": ["N", 3, h, w]},
        {"colours": COLOUR_WEIGHTS[:, :, None, None], **constants},
    )


def _create_tail(h: int, w: int, logits: tuple[int, ...]) -> onnx.ModelProto:
    head, constants = _create_head(logits, "activations")
    if len(logits) == 1:
        backward = [
            helper.make_node("Unsqueeze", ["seed", "axes"], ["column"]),
            helper.make_node("Div", ["column", "cells"], ["share"]),
            helper.make_node("Shape", ["activations"], ["shape"]),
            helper.make_node("Expand", ["share", "shape"], ["gradients"]),
        ]
        constants["cells"] = np.array(h * w, np.float32)
    else:
        backward = [helper.make_node("ConvTranspose", ["seed", "weights"], ["gradients"])]
    return _create_model(
        [*head, *backward],
        {"activations": (T.FLOAT, ["N", 3, h, w]), "seed": (T.FLOAT, ["N", *logits])},
        {"logits": ["N", *logits], "gradients": ["N", 3, h, w]},
        constants,
    )
