"""The signature: a graph whose inputs or outputs differ from the manifest is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from percept.errors import BundleError
from percept.runtime.network import Network
from tests.bundles import create_bundle, read_manifest_json, write_manifest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["layers"][0].update(shape=[3, 8, 9]), "trunk output 'colour'"),
        (lambda m: m["layers"][0].update(name="body"), "trunk output 'body' is missing"),
        (lambda m: m["preprocessing"].update(height=64), "trunk input 'pixels'"),
        (lambda m: m["layers"][0]["tail"].update(crossing=["p3"]), "the trunk has no outputs ['p3']"),
        (lambda m: m.update(logits=[4], labels=["a", "b", "c", "d"]), "trunk output 'logits'"),
    ],
)
def test_trunk_that_differs_from_the_manifest_is_refused(
    change: Callable[[dict[str, Any]], object], reason: str, tmp_path: Path
) -> None:
    folder = create_bundle(tmp_path)
    manifest = read_manifest_json(folder)
    change(manifest)
    manifest["cam_layer"] = manifest["layers"][0]["name"]
    write_manifest(folder, manifest)
    with pytest.raises(BundleError) as caught:
        Network(folder, "cpu", 1)
    assert reason in str(caught.value)


def test_trunk_of_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    model = onnx.load(folder / "trunk.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, folder / "trunk.onnx")
    write_manifest(folder, read_manifest_json(folder), rehash=True)
    with pytest.raises(BundleError, match="trunk input 'pixels'"):
        Network(folder, "cpu", 1)


def test_tail_of_another_layer_is_refused(tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    (folder / "tail.colour.onnx").write_bytes((folder / "trunk.onnx").read_bytes())
    write_manifest(folder, read_manifest_json(folder), rehash=True)
    with pytest.raises(BundleError, match="output of tail 'colour' 'gradients' is missing"):
        Network(folder, "cpu", 1)


def test_tail_with_other_inputs_is_refused(tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    manifest = read_manifest_json(folder)
    manifest["layers"][0]["tail"]["seeds"] = ["later"]
    write_manifest(folder, manifest)
    with pytest.raises(BundleError, match=r"tail of 'colour' has the inputs .*, not .*'seed\.later'"):
        Network(folder, "cpu", 1)
