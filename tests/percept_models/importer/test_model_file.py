"""Files that are broken, hostile or too large are refused with a reason, and nothing outside their folder is opened."""

import random
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from percept.errors import BundleError
from percept_models.importer import model_file
from percept_models.importer.network import read
from tests.percept_models.importer.graphs import POOL, conv, floats, logits_of, node, operators, pooled, written


def tiny(folder: Path, *nodes: NodeProto, **more: object) -> Path:
    """A file with a classifier."""
    return written(folder, [conv("x", "c"), *(nodes or POOL)], **more)


BROKEN = {
    "missing": None,
    "empty": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "noise": bytes(np.random.default_rng(0).integers(0, 256, 4096, np.uint8)),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "zeros": bytes(64),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, case: str) -> None:
    file, content = tmp_path / "net.onnx", BROKEN[case]
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BundleError, match=r"is not a file|is not an ONNX file, or it is cut short|holds no ONNX graph"):
        read(file)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a file"):
        read(tmp_path)


def test_a_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    file = tiny(tmp_path)
    whole = file.read_bytes()
    for end in range(0, len(whole), 29):
        file.write_bytes(whole[:end])
        with pytest.raises(BundleError):
            read(file)


def test_damage_anywhere_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    file, rng = tiny(tmp_path), random.Random(0)
    whole = file.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 2, 4])):
            damaged[rng.randrange(len(whole))] = rng.randrange(128)
        file.write_bytes(damaged)
        with suppress(BundleError):
            read(file)


def test_a_refusal_is_one_line_whatever_a_file_calls_its_tensors(tmp_path: Path) -> None:
    file = tiny(tmp_path)
    model = onnx.load(file)
    model.graph.input[0].name = "x\n\x1b[2J"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError) as refusal:
        read(file)
    assert str(refusal.value).isprintable()


def test_more_than_2_gb_are_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    with file.open("wb") as stream:
        stream.truncate(2**31)
    with pytest.raises(BundleError, match=r"net\.onnx has more than 2 GB"):
        read(file)


def outside(location: str, **more: str) -> TensorProto:
    """A tensor of two numbers that are stored elsewhere."""
    tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": location} | more).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


ESCAPES = ["/etc/passwd", "../secret.bin", "a/../../secret.bin", "C:\\secret.bin", "\\\\host\\share", "..\\secret.bin"]


@pytest.mark.parametrize("location", ESCAPES)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    with pytest.raises(BundleError, match=f"{re.escape(repr(location))} lies outside the folder"):
        read(tiny(folder, weights=[outside(location)]))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "d").symlink_to(tmp_path)
    for location in ("w.bin", "d/secret.bin"):
        with pytest.raises(BundleError, match="is a link out of the folder"):
            read(tiny(folder, weights=[outside(location)]))


@pytest.mark.parametrize("location", ["gone.bin", "", ".", "*/_ORT_MEM_ADDR_/*"])
def test_external_data_that_is_missing_is_refused(tmp_path: Path, location: str) -> None:
    """ONNX Runtime takes the last one for an address in memory."""
    with pytest.raises(BundleError, match=f"{re.escape(repr(location))} is missing"):
        read(tiny(tmp_path, weights=[outside(location)]))


@pytest.mark.parametrize(
    "place", [{"offset": "9"}, {"length": "9"}, {"offset": "-4", "length": "8"}, {"length": "-1"}, {"length": "x"}]
)
def test_external_data_that_is_cut_short_is_refused(tmp_path: Path, place: dict[str, str]) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    with pytest.raises(BundleError, match="is cut short, or the place in it is wrong"):
        read(tiny(tmp_path, node("Add", "c far", "a"), *pooled("a"), weights=[outside("w.bin", **place)]))


HIDING = {
    "a constant": lambda far: [node("Constant", "", "k", value=far)],
    "a branch": lambda far: [node("If", "yes", "k", then_branch=inner(far), else_branch=inner(far))],
    "a weight of a branch": lambda far: [node("If", "yes", "k", then_branch=inner(far, True), else_branch=inner(far))],
}


def inner(far: TensorProto, weight: bool = False) -> onnx.GraphProto:
    """A branch that gives a tensor."""
    made = node("Identity", "far", "b") if weight else node("Constant", "", "b", value=far)
    return helper.make_graph([made], "b", [], [helper.make_empty_tensor_value_info("b")], [far] if weight else [])


@pytest.mark.parametrize("case", HIDING)
def test_every_place_is_checked_before_any_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    opened: list[TensorProto] = []
    monkeypatch.setattr(model_file.external_data_helper, "load_external_data_for_tensor", opened.append)
    (tmp_path / "w.bin").write_bytes(bytes(8))
    yes, near = numpy_helper.from_array(np.array(True), "yes"), node("Constant", "", "near", value=outside("w.bin"))
    nodes = [near, conv("x", "c"), *HIDING[case](outside("../secret.bin")), *POOL]
    with pytest.raises(BundleError, match=r"secret\.bin' lies outside"):
        read(written(tmp_path, nodes, [yes]))
    assert not opened


def test_a_function_hides_nothing(tmp_path: Path) -> None:
    body = [node("Constant", "", "k", value=outside("../secret.bin")), node("Identity", "k", "b")]
    made = helper.make_function("own", "Far", [], ["b"], body, [helper.make_opsetid("", 13)])
    with pytest.raises(BundleError, match=r"secret\.bin' lies outside"):
        read(tiny(tmp_path, functions=[made]))


def test_external_data_counts_towards_the_limit_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    file = tiny(tmp_path, weights=[outside("w.bin"), outside("w.bin")])
    monkeypatch.setattr(model_file, "LIMIT", file.stat().st_size + 15)
    with pytest.raises(BundleError, match="more than 2 GB"):
        read(file)


def test_external_data_in_the_folder_is_read(tmp_path: Path) -> None:
    """Where it lies in a folder of its own too."""
    model = onnx.load(tiny(tmp_path))
    (tmp_path / "deep").mkdir()
    onnx.save(model, tmp_path / "out.onnx", save_as_external_data=True, location="deep/w.bin", size_threshold=0)
    np.testing.assert_array_equal(logits_of(read(tmp_path / "out.onnx")), logits_of(read(tmp_path / "net.onnx")))


def test_operators_that_are_not_onnxs_are_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Fast", ["c"], ["f"], domain="org.example"), *pooled("f")]
    nodes += [helper.make_node("FusedConv", ["x", "w"], ["g"], domain="com.microsoft")]
    with pytest.raises(BundleError, match=r"not ONNX's own: com\.microsoft\.FusedConv, org\.example\.Fast; export"):
        read(tiny(tmp_path, *nodes))


def test_functions_of_the_file_are_inlined(tmp_path: Path) -> None:
    body = [node("Relu", "a", "r"), node("Neg", "r", "b")]
    made = helper.make_function("own", "Both", ["a"], ["b"], body, [helper.make_opsetid("", 13)])
    nodes = [helper.make_node("Both", ["c"], ["f"], domain="own"), *pooled("f")]
    imports = {"functions": [made], "domains": ("own",)}
    assert operators(read(tiny(tmp_path, *nodes, **imports)))[:3] == ["Conv", "Relu", "Neg"]


def test_functions_without_end_are_refused(tmp_path: Path) -> None:
    again = helper.make_node("Again", ["a"], ["b"], domain="own")
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
    made = helper.make_function("own", "Again", ["a"], ["b"], [again], imports)
    nodes = [helper.make_node("Again", ["c"], ["f"], domain="own"), *pooled("f")]
    with pytest.raises(BundleError, match="cannot be inlined: Cycle detected"):
        read(tiny(tmp_path, *nodes, functions=[made], domains=("own",)))


def test_weights_among_the_inputs_are_taken_off(tmp_path: Path) -> None:
    """Old exporters listed them, in files older than the rule that they need not be."""
    file = tiny(tmp_path, inputs=[helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3])], opset=9)
    model = onnx.load(file)
    model.ir_version = 3
    file.write_bytes(model.SerializeToString())
    assert read(file).notes[0] == "the weights were taken off the list of inputs"


def test_a_graph_that_onnx_runtime_refuses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="ONNX Runtime refuses the graph"):
        read(tiny(tmp_path, node("Relu", "c", "y", alpha=1.0)))


def test_a_file_without_a_version_is_refused(tmp_path: Path) -> None:
    file = tiny(tmp_path)
    model = onnx.load(file)
    model.opset_import[0].domain = "org.example"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="does not say which version"):
        read(file)


def test_what_a_file_says_of_itself_is_left_behind(tmp_path: Path) -> None:
    file = tiny(tmp_path)
    model = onnx.load(file)
    secret = "/home/somebody/net.py"
    model.producer_name = model.doc_string = model.graph.doc_string = model.graph.name = secret
    for part in (model, model.graph, model.graph.node[0], model.graph.initializer[0], model.graph.input[0]):
        part.metadata_props.add(key="path", value=secret)
    for part in (model.graph.node[0], model.graph.initializer[0], model.graph.node[0].attribute[0]):
        part.doc_string = secret
    model.graph.node[0].name = secret
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [secret, 4, 8, 6]))
    file.write_bytes(model.SerializeToString())
    assert b"somebody" not in read(file).model.SerializeToString()


def test_numbers_that_are_too_few_are_refused(tmp_path: Path) -> None:
    short = floats("short", 6)
    short.raw_data = short.raw_data[:8]
    with pytest.raises(BundleError, match=r"broken|refuses"):
        read(tiny(tmp_path, node("Add", "c short", "a"), *pooled("a"), weights=[short]))
