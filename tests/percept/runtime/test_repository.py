"""Which bundles are served, which are refused, and who is meant by a name."""

import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest

from percept.errors import BundleRefused, NotReady, UnknownModel
from percept.runtime.execution_plan import Plan, crews
from percept.runtime.model import LOGITS
from percept.runtime.network import Look
from percept.runtime.repository import Repository
from tests.bundles import bundle

PLAN = Plan("cpu", workers=1, threads=1, max_batch=1, max_queue=8)


def loaded(root: Path, default: str | None = None) -> Repository:
    repository = Repository(root, PLAN, crews(PLAN, 1), default)
    repository.load()
    return repository


def test_a_broken_bundle_is_refused_by_name_and_the_others_are_served(tmp_path: Path) -> None:
    bundle(tmp_path, "good")
    (bundle(tmp_path, "bad") / "trunk.onnx").write_bytes(b"")
    repository = loaded(tmp_path)
    assert [model.manifest.name for model in repository.models] == ["good"]
    assert "trunk.onnx is not the file" in repository.refused["bad/1"]
    with pytest.raises(UnknownModel, match=r"bad/1 is refused: trunk\.onnx"):
        repository.find("bad")


def test_the_newest_version_answers_unless_another_is_named(tmp_path: Path) -> None:
    for version in (2, 10, 9):
        bundle(tmp_path, version=version)
    repository = loaded(tmp_path)
    assert repository.find("marker").manifest.version == 10
    assert repository.find("marker", 2).manifest.version == 2
    assert repository.versions("marker") == [2, 9, 10]
    with pytest.raises(UnknownModel, match="no version 3; it has \\[2, 9, 10\\]"):
        repository.find("marker", 3)


def test_without_a_name_the_first_classifier_answers(tmp_path: Path) -> None:
    bundle(tmp_path, "a-segmenter", task="segmentation")
    bundle(tmp_path, "c-classifier")
    bundle(tmp_path, "b-classifier")
    assert loaded(tmp_path).find().manifest.name == "b-classifier"
    assert loaded(tmp_path, "a-segmenter").find().manifest.name == "a-segmenter"


def test_a_default_that_is_not_served_is_not_ready_but_others_answer(tmp_path: Path) -> None:
    bundle(tmp_path)
    repository = loaded(tmp_path, "absent")
    with pytest.raises(NotReady, match="default model 'absent' is not served"):
        repository.check()
    assert repository.find("marker")


def test_nothing_to_serve_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="still being loaded"):
        Repository(tmp_path, PLAN, crews(PLAN, 1)).check()
    with pytest.raises(NotReady, match="there is none"):
        loaded(tmp_path).find()
    (bundle(tmp_path) / "golden.npz").unlink()
    with pytest.raises(NotReady, match=r"marker/1: golden\.npz cannot be read"):
        loaded(tmp_path).check()


def test_what_is_no_bundle_is_passed_over(tmp_path: Path) -> None:
    bundle(tmp_path)
    (tmp_path / ".staging" / "1").mkdir(parents=True)
    (tmp_path / "marker" / "latest").mkdir()
    (tmp_path / "README").write_text("bundles")
    repository = loaded(tmp_path)
    assert repository.versions("marker") == [1]
    assert not repository.refused


def test_a_model_is_loaded_as_its_bundles_are_now(tmp_path: Path) -> None:
    unaltered = bundle(tmp_path, version=1)
    bundle(tmp_path, version=2)
    bundle(tmp_path, "other")
    repository = loaded(tmp_path)
    first, second, other = repository.find("marker", 1), repository.find("marker", 2), repository.find("other")
    shutil.rmtree(tmp_path / "marker" / "2")
    bundle(tmp_path, version=3)
    repository.load_model("marker")
    assert repository.versions("marker") == [1, 3]
    assert repository.find("marker", 1) is first  # nothing of it has changed
    assert repository.find("other") is other
    with pytest.raises(UnknownModel):
        repository.find("marker", 2)
    assert second.manifest.version == 2  # who found it has it still
    shutil.rmtree(unaltered)
    bundle(tmp_path, version=1, height=16, width=16)
    repository.load_model("marker")
    assert repository.find("marker", 1).manifest.preprocessing.height == 16


def test_what_cannot_be_loaded_leaves_what_was_served(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    repository = loaded(tmp_path)
    served = repository.find("marker")
    (folder / "tail.colour.onnx").write_bytes(b"half of it")
    with pytest.raises(BundleRefused, match=r"marker/1: tail\.colour\.onnx is not the file"):
        repository.load_model("marker")
    assert repository.find("marker") is served
    assert [tuple(one) for one in repository.index()] == [("marker", 1, True, repository.refused["marker/1"])]
    shutil.rmtree(folder)
    bundle(tmp_path)
    repository.load_model("marker")
    assert not repository.refused


def test_files_that_were_altered_are_not_loaded_a_second_time_either(tmp_path: Path) -> None:
    """A small network is loaded twice, once it is the newest: that must not be what was refused a moment ago."""
    how = Plan("cpu", workers=2, threads=2, max_batch=1, max_queue=8)
    folder = bundle(tmp_path, version=1)
    newest = bundle(tmp_path, version=2)
    repository = Repository(tmp_path, how, crews(how, 2))
    repository.load()
    served = repository.find("marker", 1)
    shutil.rmtree(newest)
    (folder / "trunk.onnx").write_bytes(b"half of it")
    with pytest.raises(BundleRefused, match=r"marker/1: trunk\.onnx is not the file"):
        repository.load_model("marker")
    assert repository.find("marker") is served
    pixels = np.zeros((32, 32, 3), np.uint8)
    assert served.network.forward([Look(pixels, LOGITS)], alone=False)[0]["logits"].shape == (3,)


def test_an_unloaded_model_is_gone_with_its_memory_and_another_is_the_default(tmp_path: Path) -> None:
    for name in ("a", "b"):
        bundle(tmp_path, name)
    repository = loaded(tmp_path)
    gone = weakref.ref(repository.find().network)
    repository.unload_model("a")
    gc.collect()
    assert gone() is None
    assert repository.default == "b"
    assert [tuple(one) for one in repository.index()] == [("a", 1, False, "not loaded"), ("b", 1, True, "")]
    repository.unload_model("b")
    with pytest.raises(NotReady, match="all are unloaded"):
        repository.check()
    with pytest.raises(UnknownModel, match="there is no model 'b'"):
        repository.unload_model("b")
    with pytest.raises(UnknownModel, match="it has those of a, b"):
        repository.load_model("../a")
    repository.load_model("a")
    assert repository.default == "a"


def test_a_default_that_was_set_is_waited_for(tmp_path: Path) -> None:
    bundle(tmp_path, "other")
    repository = loaded(tmp_path, "marker")
    bundle(tmp_path)
    repository.load_model("marker")
    assert repository.find().manifest.name == "marker"
