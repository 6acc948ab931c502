"""Photos and masks of a folder."""

from pathlib import Path

from percept.evaluation.photos import PhotoFolder


def test_sample_is_spread_over_the_folder(tmp_path: Path) -> None:
    for k in range(10):
        (tmp_path / f"{k}.png").write_bytes(b"")
    folder = PhotoFolder(tmp_path)
    for limit, names in ((1, "0"), (2, "05"), (3, "036"), (10, "0123456789"), (99, "0123456789"), (None, "0123456789")):
        assert "".join(file.stem for file in folder.sample(limit)) == names
