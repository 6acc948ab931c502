"""The commands of the export toolchain: exit statuses, and one default folder of bundles with the server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from percept.server.cli import main
from percept.settings import Settings
from percept_models.training import cifar10
from percept_models.training.blocks import fold_batch_norms
from percept_models.training.bundles import export_network
from tests.percept_models.export.factories import MODULE

EXPORT = ["export", f"{MODULE}:classifier", "--size", "32x24", "--layers", "stage2", "--name", "mine"]


def test_export_writes_where_the_server_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line names the folder and the command that serves it."""
    monkeypatch.setenv("PERCEPT_MODELS", str(tmp_path / "default"))
    assert main(EXPORT) == 0
    bundle = Settings().models / "mine" / "1"
    assert bundle == tmp_path / "default" / "mine" / "1"
    assert (bundle / "manifest.json").is_file()
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {bundle}; to serve it: percept serve"


def test_export_into_another_folder_says_how_to_serve_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my bundles"
    assert main([*EXPORT, "--out", str(out)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"wrote {out / 'mine' / '1'}; to serve it: PERCEPT_MODELS='{out}' percept serve"


@pytest.mark.parametrize("command", ["export", "teach"])
def test_commands_name_the_default_folder_of_the_server(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert str(Settings().models) in "".join(capsys.readouterr().out.split())


def test_commands_return_0_for_sound_bundles_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    folder = export_network("cifar10", fold_batch_norms(cifar10.Network().eval()), {}, tmp_path)
    assert main(["verify", str(folder)]) == 0
    assert main(["layers", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "stage1 gradients" in printed
    assert "112x16x16" in printed
    (folder / "weights.bin").write_bytes(b"")
    assert main(["verify", str(folder)]) == 1
    assert main(["layers", str(tmp_path)]) == 1
    assert main(["verify", str(tmp_path), "--against", "nothing"]) == 1


WITHOUT_TORCH = [
    (["check", "--help"], 0, "usage: percept check"),
    (["check", "json:b", "absent.jpg"], 1, "percept check: there is no file absent.jpg"),
    (["export", "--help"], 0, "usage: percept export"),
    (["verify", "--help"], 0, "usage: percept verify"),
    (["visualize", "--help"], 0, "usage: percept visualize"),
    (["teach", "--help"], 0, "usage: percept teach"),
    (["export", "a:b", "--name", "x", "--resize", "tile"], 2, "invalid choice: 'tile'"),
    (["export", "a:b", "--name", "x", "--size", "big"], 2, "'big' is not a size: write 224, or 480x640"),
    (["export", "a:b", "--name", "x", "--mean", "dark"], 2, "'dark' is not one number, or one for each channel"),
    (["export", "a:b", "--name", "x", "--std", "nan"], 2, "'nan' is not one number, or one for each channel"),
    (["visualize", "a", "--steps", "many"], 2, "'many' is not a number of at least 1"),
    (["export", "a:b", "--name", "my net"], 1, "percept export: 'my net' is no name of a model"),
    (["export", "absent.onnx", "--name", "x"], 1, "percept export: there is no file absent.onnx"),
    (["export", "json:b", "--name", "x", "--out", __file__], 1, f"percept export: {__file__} cannot be written"),
    (["verify", "absent"], 1, "percept verify: there is no folder absent"),
    (["layers", "absent"], 1, "percept layers: there is no folder absent"),
    (["visualize", "absent"], 1, "percept visualize: there is no folder absent"),
    (["teach", "cifar10", "--data", "absent"], 1, "percept teach: there is no folder absent"),
]
RUN_COMMANDS = """
import contextlib, io, json, sys
from percept.server.cli import main

results = []
for arguments in json.load(sys.stdin):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            status = main(arguments)
        except SystemExit as exit:
            status = exit.code
    results.append([status, printed.getvalue(), sorted({"torch", "onnx", "onnxruntime"} & sys.modules.keys())])
print(json.dumps(results))
"""


def test_help_and_wrong_arguments_do_not_import_torch() -> None:
    given = json.dumps([arguments for arguments, _, _ in WITHOUT_TORCH])
    done = subprocess.run([sys.executable, "-c", RUN_COMMANDS], input=given, capture_output=True, text=True, check=True)
    for case, (status, printed, imported) in zip(WITHOUT_TORCH, json.loads(done.stdout), strict=True):
        arguments, expected, line = case
        assert (status, imported) == (expected, []), arguments
        assert line in printed
