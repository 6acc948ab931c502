"""`percept verify --against`: a bundle passes against its own network and fails against another."""

from pathlib import Path

import torch

from percept.server.cli import main
from tests.percept_models.export.factories import MODULE
from tests.percept_models.networks import Pyramid


def test_bundle_is_verified_against_the_source_in_its_manifest(tmp_path: Path) -> None:
    """With the bundle's own weights; the same source with other weights fails."""
    source = f"{MODULE}:segmenter"
    assert main(["export", source, "--name", "mine", "--out", str(tmp_path), "--size", "32x24"]) == 0
    bundle = str(tmp_path / "mine" / "1")
    assert main(["verify", bundle]) == 0
    assert main(["verify", bundle, "--against", "torch"]) == 0
    assert main(["verify", bundle, "--against", source]) == 0
    torch.save({key: value + 0.01 for key, value in Pyramid().state_dict().items()}, tmp_path / "other.pt")
    assert main(["verify", bundle, "--against", source, "--weights", str(tmp_path / "other.pt")]) == 1
