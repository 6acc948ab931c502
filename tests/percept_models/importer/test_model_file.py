"""Files that are broken, hostile or too large are rejected with a reason; nothing outside their folder is opened."""

import random
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from percept.errors import BundleError
from percept_models.importer import model_file
from percept_models.importer.network import import_network
from tests.percept_models.importer.graphs import (
    conv,
    floats,
    node,
    operators,
    pool_and_flatten,
    random_logits,
    write_classifier,
    write_file,
)

BROKEN = {
    "missing": None,
    "empty": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "noise": bytes(np.random.default_rng(0).integers(0, 256, 4096, np.uint8)),
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "zeros": bytes(64),
}


@pytest.mark.parametrize("case", BROKEN)
def test_other_kind_of_file_is_rejected(tmp_path: Path, case: str) -> None:
    file, content = tmp_path / "net.onnx", BROKEN[case]
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BundleError, match=r"is not a file|is not an ONNX file, or it is truncated|holds no ONNX graph"):
        import_network(file)


def test_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a file"):
        import_network(tmp_path)


def test_truncated_file_is_rejected(tmp_path: Path) -> None:
    file = write_classifier(tmp_path)
    whole = file.read_bytes()
    for end in range(0, len(whole), 29):
        file.write_bytes(whole[:end])
        with pytest.raises(BundleError):
            import_network(file)


def test_damaged_file_raises_no_other_error(tmp_path: Path) -> None:
    file, rng = write_classifier(tmp_path), random.Random(0)
    whole = file.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 2, 4])):
            damaged[rng.randrange(len(whole))] = rng.randrange(128)
        file.write_bytes(damaged)
        with suppress(BundleError):
            import_network(file)


def test_error_message_is_printable_for_any_tensor_name(tmp_path: Path) -> None:
    file = write_classifier(tmp_path)
    model = onnx.load(file)
    model.graph.input[0].name = "x\n\x1b[2J"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError) as raised:
        import_network(file)
    assert str(raised.value).isprintable()


def test_file_over_2_gb_is_rejected_unread(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    with file.open("wb") as stream:
        stream.truncate(2**31)
    with pytest.raises(BundleError, match=r"net\.onnx has more than 2 GB"):
        import_network(file)


def external(location: str, **more: str) -> TensorProto:
    """A tensor of two numbers that are stored in another file."""
    tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": location} | more).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


ESCAPES = ["/etc/passwd", "../secret.bin", "a/../../secret.bin", "C:\\secret.bin", "\\\\host\\share", "..\\secret.bin"]


@pytest.mark.parametrize("location", ESCAPES)
def test_external_data_outside_folder_is_rejected(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    with pytest.raises(BundleError, match=f"{re.escape(repr(location))} lies outside the folder"):
        import_network(write_classifier(folder, weights=[external(location)]))


def test_link_out_of_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "d").symlink_to(tmp_path)
    for location in ("w.bin", "d/secret.bin"):
        with pytest.raises(BundleError, match="is a link out of the folder"):
            import_network(write_classifier(folder, weights=[external(location)]))


@pytest.mark.parametrize("location", ["gone.bin", "", ".", "*/_ORT_MEM_ADDR_/*"])
def test_missing_external_data_is_rejected(tmp_path: Path, location: str) -> None:
    """ONNX Runtime would take the last location for an address in memory."""
    with pytest.raises(BundleError, match=f"{re.escape(repr(location))} is missing"):
        import_network(write_classifier(tmp_path, weights=[external(location)]))


@pytest.mark.parametrize(
    "extent", [{"offset": "9"}, {"length": "9"}, {"offset": "-4", "length": "8"}, {"length": "-1"}, {"length": "x"}]
)
def test_truncated_external_data_is_rejected(tmp_path: Path, extent: dict[str, str]) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    with pytest.raises(BundleError, match="is truncated, or its offset or length is wrong"):
        import_network(
            write_classifier(
                tmp_path, node("Add", "c far", "a"), *pool_and_flatten("a"), weights=[external("w.bin", **extent)]
            )
        )


HIDING_PLACES = {
    "constant": lambda far: [node("Constant", "", "k", value=far)],
    "branch": lambda far: [node("If", "yes", "k", then_branch=branch(far), else_branch=branch(far))],
    "weight of a branch": lambda far: [node("If", "yes", "k", then_branch=branch(far, True), else_branch=branch(far))],
}


def branch(far: TensorProto, weight: bool = False) -> onnx.GraphProto:
    """A branch that returns an external tensor."""
    body = node("Identity", "far", "b") if weight else node("Constant", "", "b", value=far)
    return helper.make_graph([body], "b", [], [helper.make_empty_tensor_value_info("b")], [far] if weight else [])


@pytest.mark.parametrize("case", HIDING_PLACES)
def test_every_location_is_checked_before_any_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    opened: list[TensorProto] = []
    monkeypatch.setattr(external_data_helper, "load_external_data_for_tensor", opened.append)
    (tmp_path / "w.bin").write_bytes(bytes(8))
    yes, near = numpy_helper.from_array(np.array(True), "yes"), node("Constant", "", "near", value=external("w.bin"))
    nodes = [near, conv("x", "c"), *HIDING_PLACES[case](external("../secret.bin")), *pool_and_flatten("c")]
    with pytest.raises(BundleError, match=r"secret\.bin' lies outside"):
        import_network(write_file(tmp_path, nodes, [yes]))
    assert not opened


def test_external_data_in_function_is_checked(tmp_path: Path) -> None:
    body = [node("Constant", "", "k", value=external("../secret.bin")), node("Identity", "k", "b")]
    function = helper.make_function("own", "Far", [], ["b"], body, [helper.make_opsetid("", 13)])
    with pytest.raises(BundleError, match=r"secret\.bin' lies outside"):
        import_network(write_classifier(tmp_path, functions=[function]))


def test_external_data_counts_towards_limit_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    file = write_classifier(tmp_path, weights=[external("w.bin"), external("w.bin")])
    monkeypatch.setattr(model_file, "MAX_BYTES", file.stat().st_size + 15)
    with pytest.raises(BundleError, match="more than 2 GB"):
        import_network(file)


def test_external_data_in_folder_is_read(tmp_path: Path) -> None:
    """In a sub-folder too."""
    model = onnx.load(write_classifier(tmp_path))
    (tmp_path / "deep").mkdir()
    onnx.save(model, tmp_path / "out.onnx", save_as_external_data=True, location="deep/w.bin", size_threshold=0)
    np.testing.assert_array_equal(
        random_logits(import_network(tmp_path / "out.onnx")), random_logits(import_network(tmp_path / "net.onnx"))
    )


def test_custom_operators_are_rejected_by_name(tmp_path: Path) -> None:
    nodes = [helper.make_node("Fast", ["c"], ["f"], domain="org.example"), *pool_and_flatten("f")]
    nodes += [helper.make_node("FusedConv", ["x", "w"], ["g"], domain="com.microsoft")]
    with pytest.raises(BundleError, match=r"not ONNX's own: com\.microsoft\.FusedConv, org\.example\.Fast; export"):
        import_network(write_classifier(tmp_path, *nodes))


def test_functions_are_inlined(tmp_path: Path) -> None:
    body = [node("Relu", "a", "r"), node("Neg", "r", "b")]
    function = helper.make_function("own", "Both", ["a"], ["b"], body, [helper.make_opsetid("", 13)])
    nodes = [helper.make_node("Both", ["c"], ["f"], domain="own"), *pool_and_flatten("f")]
    network = import_network(write_classifier(tmp_path, *nodes, functions=[function], domains=("own",)))
    assert operators(network)[:3] == ["Conv", "Relu", "Neg"]


def test_recursive_functions_are_rejected(tmp_path: Path) -> None:
    again = helper.make_node("Again", ["a"], ["b"], domain="own")
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Again", ["a"], ["b"], [again], imports)
    nodes = [helper.make_node("Again", ["c"], ["f"], domain="own"), *pool_and_flatten("f")]
    with pytest.raises(BundleError, match="cannot be inlined: Cycle detected"):
        import_network(write_classifier(tmp_path, *nodes, functions=[function], domains=("own",)))


def test_weights_among_inputs_are_removed(tmp_path: Path) -> None:
    """Old exporters listed them: before IR version 4 they had to."""
    file = write_classifier(
        tmp_path, inputs=[helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3])], opset=9
    )
    model = onnx.load(file)
    model.ir_version = 3
    file.write_bytes(model.SerializeToString())
    assert import_network(file).notes[0] == "the weights were removed from the list of inputs"


def test_graph_that_onnx_runtime_rejects_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="ONNX Runtime refuses the graph"):
        import_network(write_classifier(tmp_path, node("Relu", "c", "y", alpha=1.0)))


def test_file_without_opset_is_rejected(tmp_path: Path) -> None:
    file = write_classifier(tmp_path)
    model = onnx.load(file)
    model.opset_import[0].domain = "org.example"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="does not say which version"):
        import_network(file)


def test_metadata_is_removed(tmp_path: Path) -> None:
    file = write_classifier(tmp_path)
    model = onnx.load(file)
    secret = "/home/alice/net.py"
    model.producer_name = model.doc_string = model.graph.doc_string = model.graph.name = secret
    for part in (model, model.graph, model.graph.node[0], model.graph.initializer[0], model.graph.input[0]):
        part.metadata_props.add(key="path", value=secret)
    for part in (model.graph.node[0], model.graph.initializer[0], model.graph.node[0].attribute[0]):
        part.doc_string = secret
    model.graph.node[0].name = secret
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [secret, 4, 8, 6]))
    file.write_bytes(model.SerializeToString())
    assert b"alice" not in import_network(file).model.SerializeToString()


def test_weight_with_too_few_numbers_is_rejected(tmp_path: Path) -> None:
    short = floats("short", 6)
    short.raw_data = short.raw_data[:8]
    with pytest.raises(BundleError, match=r"invalid|refuses"):
        import_network(write_classifier(tmp_path, node("Add", "c short", "a"), *pool_and_flatten("a"), weights=[short]))
