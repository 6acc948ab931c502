"""The repository: which bundles are served, which are refused, and which model a name refers to."""

import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest

from percept.errors import BundleRefused, NotReady, UnknownModel
from percept.runtime.execution_plan import ExecutionPlan, create_worker_pools
from percept.runtime.model import ONLY_LOGITS
from percept.runtime.network import TrunkInput
from percept.runtime.repository import Repository
from tests.bundles import create_bundle

PLAN = ExecutionPlan("cpu", workers=1, threads=1, max_batch=1, max_queue=8)


def load_repository(root: Path, default: str | None = None) -> Repository:
    repository = Repository(root, PLAN, create_worker_pools(PLAN, 1), default)
    repository.load_all()
    return repository


def test_broken_bundle_is_refused_and_others_are_served(tmp_path: Path) -> None:
    create_bundle(tmp_path, "good")
    (create_bundle(tmp_path, "bad") / "trunk.onnx").write_bytes(b"")
    repository = load_repository(tmp_path)
    assert [model.manifest.name for model in repository.models] == ["good"]
    assert "trunk.onnx is not the file" in repository.refused["bad/1"]
    with pytest.raises(UnknownModel, match=r"bad/1 is refused: trunk\.onnx"):
        repository.find("bad")


def test_newest_version_is_found_unless_another_is_named(tmp_path: Path) -> None:
    for version in (2, 10, 9):
        create_bundle(tmp_path, version=version)
    repository = load_repository(tmp_path)
    assert repository.find("marker").manifest.version == 10
    assert repository.find("marker", 2).manifest.version == 2
    assert repository.versions("marker") == [2, 9, 10]
    with pytest.raises(UnknownModel, match="no version 3; it has \\[2, 9, 10\\]"):
        repository.find("marker", 3)


def test_default_is_the_first_classifier(tmp_path: Path) -> None:
    create_bundle(tmp_path, "a-segmenter", task="segmentation")
    create_bundle(tmp_path, "c-classifier")
    create_bundle(tmp_path, "b-classifier")
    assert load_repository(tmp_path).find().manifest.name == "b-classifier"
    assert load_repository(tmp_path, "a-segmenter").find().manifest.name == "a-segmenter"


def test_missing_default_is_not_ready_but_others_are_found(tmp_path: Path) -> None:
    create_bundle(tmp_path)
    repository = load_repository(tmp_path, "absent")
    with pytest.raises(NotReady, match="default model 'absent' is not served"):
        repository.check_ready()
    assert repository.find("marker")


def test_empty_repository_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="still being loaded"):
        Repository(tmp_path, PLAN, create_worker_pools(PLAN, 1)).check_ready()
    with pytest.raises(NotReady, match="there is none"):
        load_repository(tmp_path).find()
    (create_bundle(tmp_path) / "golden.npz").unlink()
    with pytest.raises(NotReady, match=r"marker/1: golden\.npz cannot be read"):
        load_repository(tmp_path).check_ready()


def test_folders_without_versions_are_skipped(tmp_path: Path) -> None:
    create_bundle(tmp_path)
    (tmp_path / ".staging" / "1").mkdir(parents=True)
    (tmp_path / "marker" / "latest").mkdir()
    (tmp_path / "README").write_text("bundles")
    repository = load_repository(tmp_path)
    assert repository.versions("marker") == [1]
    assert not repository.refused


def test_load_model_follows_the_bundles_on_disk(tmp_path: Path) -> None:
    unchanged = create_bundle(tmp_path, version=1)
    create_bundle(tmp_path, version=2)
    create_bundle(tmp_path, "other")
    repository = load_repository(tmp_path)
    first, second, other = repository.find("marker", 1), repository.find("marker", 2), repository.find("other")
    shutil.rmtree(tmp_path / "marker" / "2")
    create_bundle(tmp_path, version=3)
    repository.load_model("marker")
    assert repository.versions("marker") == [1, 3]
    assert repository.find("marker", 1) is first  # its files are the same
    assert repository.find("other") is other
    with pytest.raises(UnknownModel):
        repository.find("marker", 2)
    assert second.manifest.version == 2  # a request that found it keeps it
    shutil.rmtree(unchanged)
    create_bundle(tmp_path, version=1, height=16, width=16)
    repository.load_model("marker")
    assert repository.find("marker", 1).manifest.preprocessing.height == 16


def test_bundle_that_cannot_be_loaded_keeps_the_previous_one(tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    repository = load_repository(tmp_path)
    served = repository.find("marker")
    (folder / "tail.colour.onnx").write_bytes(b"half of it")
    with pytest.raises(BundleRefused, match=r"marker/1: tail\.colour\.onnx is not the file"):
        repository.load_model("marker")
    assert repository.find("marker") is served
    assert [tuple(one) for one in repository.index()] == [("marker", 1, True, repository.refused["marker/1"])]
    shutil.rmtree(folder)
    create_bundle(tmp_path)
    repository.load_model("marker")
    assert not repository.refused


def test_parallel_trunk_is_not_loaded_from_altered_files(tmp_path: Path) -> None:
    """The newest version loads its trunk twice: the second time must not load files that were just refused."""
    plan = ExecutionPlan("cpu", workers=2, threads=2, max_batch=1, max_queue=8)
    folder = create_bundle(tmp_path, version=1)
    newest = create_bundle(tmp_path, version=2)
    repository = Repository(tmp_path, plan, create_worker_pools(plan, 2))
    repository.load_all()
    served = repository.find("marker", 1)
    shutil.rmtree(newest)
    (folder / "trunk.onnx").write_bytes(b"half of it")
    with pytest.raises(BundleRefused, match=r"marker/1: trunk\.onnx is not the file"):
        repository.load_model("marker")
    assert repository.find("marker") is served
    pixels = np.zeros((32, 32, 3), np.uint8)
    assert served.network.run_trunk([TrunkInput(pixels, ONLY_LOGITS)], alone=False)[0]["logits"].shape == (3,)


def test_unloaded_model_is_freed_and_another_is_the_default(tmp_path: Path) -> None:
    for name in ("a", "b"):
        create_bundle(tmp_path, name)
    repository = load_repository(tmp_path)
    network = weakref.ref(repository.find().network)
    repository.unload_model("a")
    gc.collect()
    assert network() is None
    assert repository.default == "b"
    assert [tuple(one) for one in repository.index()] == [("a", 1, False, "not loaded"), ("b", 1, True, "")]
    repository.unload_model("b")
    with pytest.raises(NotReady, match="all are unloaded"):
        repository.check_ready()
    with pytest.raises(UnknownModel, match="there is no model 'b'"):
        repository.unload_model("b")
    with pytest.raises(UnknownModel, match="it has bundles of a, b"):
        repository.load_model("../a")
    repository.load_model("a")
    assert repository.default == "a"


def test_configured_default_may_be_loaded_later(tmp_path: Path) -> None:
    create_bundle(tmp_path, "other")
    repository = load_repository(tmp_path, "marker")
    create_bundle(tmp_path)
    repository.load_model("marker")
    assert repository.find().manifest.name == "marker"


def test_stop_prevents_further_loads(tmp_path: Path) -> None:
    create_bundle(tmp_path)
    repository = Repository(tmp_path, PLAN, create_worker_pools(PLAN, 1))
    repository.stop()
    repository.load_all()
    assert not repository.models
    with pytest.raises(NotReady, match="shutting down"):
        repository.load_model("marker")
