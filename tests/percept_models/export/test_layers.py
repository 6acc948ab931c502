"""The layers of a bundle: maps in any layout, names that a reader understands, and layers without gradients."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from string import ascii_letters, digits

import numpy as np
import onnx
import pytest
import torch

from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import Manifest
from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError
from percept.explain.maps import gradcam
from percept.runtime.network import Network, TrunkInput
from percept_models.export.convert import convert
from percept_models.export.file_name import file_stems
from percept_models.export.layer_names import name_layers
from percept_models.export.options import ExportOptions
from percept_models.graph.layout import Layout, rename_tensors
from percept_models.graph.reader import Graph
from percept_models.sources.trunk import find_feature_maps
from percept_models.verify.checks import difference
from tests.percept_models.export import factories
from tests.percept_models.export.layer_networks import MODULE, ODD_NAMES, SIZE, VisionTransformer, odd_names
from tests.percept_models.grad_cam_reference import grad_cam_package
from tests.percept_models.graph.graphs import GRID, keras_network, vision_transformer
from tests.percept_models.graph.graphs import Network as GraphNetwork

GIVEN = {"height": SIZE[0], "width": SIZE[1], "mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0)}


def export(
    out: Path, source: str, layers: Sequence[str] = (), cam_layer: str | None = None
) -> tuple[Manifest, list[str]]:
    """The manifest of a verified bundle, and the lines that the export reports."""
    lines: list[str] = []
    shutil.rmtree(out / "net", ignore_errors=True)
    given = {} if source.endswith(".onnx") else GIVEN
    options = ExportOptions(source, "net", out, layers=tuple(layers), cam_layer=cam_layer, preprocessing=given)
    return read_manifest(convert(options, lines.append)), [line.removesuffix("  ") for line in lines]


def export_graph(out: Path, graph: Graph, **options: object) -> tuple[Manifest, list[str]]:
    """The same for a graph, as the file `net.onnx` with tensors named `Relu_2`."""
    out.mkdir(exist_ok=True)
    onnx.save(rename_tensors(graph.model, {name: plain(name) for name in graph.producer}), out / "net.onnx")
    return export(out, str(out / "net.onnx"), **options)  # type: ignore[arg-type]


def plain(name: str) -> str:
    """The name in the file of the tensor `d.Relu.2`."""
    return name.removeprefix("d.").replace(".", "_")


def test_transformer_has_the_map_of_pytorch_grad_cam(tmp_path: Path) -> None:
    """At `blocks[-1].norm1`, with tokens reshaped as its recipe for transformers does; the map is not empty."""
    manifest, _ = export(tmp_path, f"{MODULE}:transformer")
    names = [layer.name for layer in manifest.layers]
    assert names == ["image", "blocks.0", "blocks.1", "blocks.2", "blocks.4.norm1"]
    assert {layer.layout for layer in manifest.layers[1:]} == {"NTC"}
    network = Network(tmp_path / "net" / "1", "cpu", 1)
    layer = network.manifest.layer(manifest.cam_layer)
    assert layer
    assert layer.shape == (8, *GRID)
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    (outputs,) = network.run_trunk([TrunkInput(pixels, network.outputs_for_gradients(layer))])
    seed = np.eye(5, dtype=np.float32)[2]
    found = gradcam(outputs[layer.name], network.compute_gradients(layer, outputs, seed))

    reference = VisionTransformer().eval()
    tokens = reference.blocks[-1].norm1
    with grad_cam_package().GradCAM(
        reference, [tokens], lambda t: t[:, 1:].reshape(-1, *GRID, 8).permute(0, 3, 1, 2)
    ) as cam:
        x = torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None]
        cam(input_tensor=x, targets=[lambda logits: logits[2]])
        A, g = (
            values[0][0].numpy()
            for values in (cam.activations_and_grads.activations, cam.activations_and_grads.gradients)
        )
    expected = gradcam(A, g)
    assert np.abs(expected).max() > 0
    assert difference(found, expected) < 1e-4


def test_modules_of_any_name_become_layers(tmp_path: Path) -> None:
    """Every tail has a file of its own, also where names differ in case only; maps in [N,h,w,C] are transposed."""
    manifest, _ = export(tmp_path, f"{MODULE}:odd_names", ["block", *ODD_NAMES])
    assert [layer.name for layer in manifest.layers] == ["image", "block", *ODD_NAMES]
    assert [layer.layout for layer in manifest.layers] == ["NCHW", "NHWC", *["NCHW"] * 5]
    assert {layer.shape for layer in manifest.layers[1:]} == {(8, 8, 12)}
    files = [layer.tail.file for layer in manifest.layers if layer.tail]
    assert len({file.lower() for file in files}) == len(manifest.layers)
    assert all(file.isascii() and not set(file) & set(" /:+") for file in files)


def test_modules_named_like_operators_keep_their_names(tmp_path: Path) -> None:
    manifest, _ = export(tmp_path, f"{MODULE}:operator_names")
    assert [layer.name for layer in manifest.layers] == ["image", "relu"]


def test_module_named_by_control_characters_is_no_layer() -> None:
    maps = find_feature_maps(odd_names(), Preprocessing(height=SIZE[0], width=SIZE[1]))
    assert set(ODD_NAMES) <= set(maps)
    assert all(map(str.isprintable, maps))


def test_file_names_are_safe_and_unique() -> None:
    names = ["layer1.0", "_bn0", "Conv", "conv", "a/b", "a b", "a:b", "..", "größe", "x" * 500, "con\x00trol"]
    stems = file_stems(names)
    assert [stems[name] for name in names[:3]] == names[:3]
    assert len({stem.lower() for stem in stems.values()}) == len(names)
    for stem in stems.values():
        assert set(stem) <= set(f"{ascii_letters}{digits}._-")
        assert len(stem) <= 120
        assert ".." not in stem


def test_tensors_of_a_file_get_readable_names(tmp_path: Path) -> None:
    """The names of the tensors stay as aliases, and select the layers as well as the readable names do."""
    graph, last, _ = keras_network()
    manifest, _ = export_graph(tmp_path, graph)
    assert [layer.name for layer in manifest.layers] == ["image", "stage1_8x12", "stage2_4x6"]
    assert manifest.cam_layer == "stage2_4x6"
    assert manifest.layers[2].aliases == (plain(last),)
    for name in (plain(last), "stage2_4x6"):
        assert manifest.layer(name) == manifest.layers[2]
        named, _ = export_graph(tmp_path, graph, layers=[name])
        assert [layer.shape for layer in named.layers[1:]] == [(6, *GRID)]
        assert named.layer(name) == named.layers[1]


def test_transformer_in_a_file_has_maps_with_gradients(tmp_path: Path) -> None:
    manifest, lines = export_graph(tmp_path, vision_transformer(depth=3)[0])
    assert [(layer.layout, layer.shape) for layer in manifest.layers[1:]][-1] == ("NTC", (8, *GRID))
    assert all(layer.tail for layer in manifest.layers)
    assert not [line for line in lines if line.startswith("warning")]


def test_tokens_without_a_grid_leave_methods_without_gradients(tmp_path: Path) -> None:
    """The stem is the last map: a gradient there explains less than its name promises."""
    network = GraphNetwork()
    stem = network.conv(network.image(), 3, 8, size=4, stride=4)
    tokens = network.linear(network.reshape(stem, 0, 8, -1), GRID[0] * GRID[1], 10)
    x, _ = network.block(network.op.Transpose(tokens, perm=[0, 2, 1]), 8)
    manifest, lines = export_graph(tmp_path, network.finish(network.mean(x, 1), 8))
    image, layer = manifest.layers
    assert image.tail
    assert layer.unavailable == "after it the network computes tokens whose grid of cells is not known"
    assert lines[-1].startswith("warning        the layer stage1_4x6 has no gradients")
    assert "eigencam" in lines[-1]


def test_cells_behind_a_class_token_are_refused_for_gradients(tmp_path: Path) -> None:
    """The output of the last block, which a user names: its cells have no influence, and a map would be empty."""
    graph, blocks, _ = vision_transformer(depth=2)
    manifest, lines = export_graph(tmp_path, graph, layers=list(map(plain, blocks)), cam_layer=plain(blocks[1]))
    assert "class token alone" in (manifest.layers[2].unavailable or "")
    assert manifest.cam_layer == manifest.layers[2].name, "the user named it"
    assert lines[-1].endswith(f"the nearest layer with gradients is {manifest.layers[1].name}")


def test_nearest_layer_replaces_cam_layer_without_gradients(tmp_path: Path) -> None:
    """Its own line says why it has none, and the end of the export which layer takes its place."""
    source = f"{factories.MODULE}:product_classifier"
    manifest, lines = export(tmp_path, source, ["stage2", "stage1"])
    assert manifest.cam_layer == "stage2"
    (line,) = (line for line in lines if line.startswith("layer          stage1"))
    assert "no gradients through the operator ReduceProd" in line
    assert lines[-1].startswith("warning        the layer stage1 has no gradients")
    assert "stage2 is the CAM layer in its place" in lines[-1]


def test_tensor_that_is_no_map_is_refused(tmp_path: Path) -> None:
    """The class token; the message lists what exists."""
    graph, _, _ = vision_transformer(depth=1)
    token = next(node.output[0] for node in graph.nodes if node.op_type == "Gather")
    with pytest.raises(BundleError, match=f"there is no feature map '{plain(token)}'; "):
        export_graph(tmp_path, graph, layers=[plain(token)])


def test_names_of_modules_in_a_file_are_used() -> None:
    """Unless another tensor has that name; a name that says something stays."""
    graph, last, _ = keras_network()
    layouts = {last: Layout("NCHW", 6, *GRID)}
    assert name_layers(graph, layouts, {last: "features.4"}) == {last: "features.4"}
    assert name_layers(graph, layouts, {}) == {}
    renamed = Graph(rename_tensors(graph.model, {last: "clip_162"}))
    numbered = {"clip_162": layouts[last]}
    assert name_layers(renamed, numbered, {}) == {}, "there is no operator Clip"
    renamed = Graph(rename_tensors(graph.model, {last: "relu_162"}))
    assert name_layers(renamed, {"relu_162": layouts[last]}, {"relu_162": "logits"}) == {"relu_162": "stage1_4x6"}
