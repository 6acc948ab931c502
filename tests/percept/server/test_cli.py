"""The command `percept`."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from percept.server.cli import main

PERCEPT = Path(sys.executable).with_name("percept")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PERCEPT, *arguments], capture_output=True, text=True, timeout=60, env={"PATH": "", **environment}
    )


def test_help_names_the_commands_of_both_houses() -> None:
    text = run("--help").stdout
    for command in ("serve", "verify", "layers", "teach"):
        assert command in text


def test_an_unknown_command_is_a_usage_error() -> None:
    assert run("sing").returncode == 2


def test_a_wrong_setting_is_named_and_nothing_starts() -> None:
    for environment, name in (({"PERCEPT_PORT": "http"}, "port"), ({"PERCEPT_DEVICE": "tpu"}, "device")):
        found = run("serve", **environment)
        assert found.returncode == 2
        assert found.stderr.startswith(f"percept serve: {name}: ")


def test_cuda_that_does_not_work_is_one_line_and_status_1() -> None:
    found = run("serve", PERCEPT_DEVICE="cuda", CUDA_VISIBLE_DEVICES="-1")
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].startswith("percept serve: CUDA was asked for and does not work")


def test_an_address_that_cannot_be_had_is_one_line_and_nothing_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = run("serve", PERCEPT_PORT=str(taken.getsockname()[1]))
    assert found.returncode == 1
    assert re.fullmatch(r"percept serve: cannot listen on 127\.0\.0\.1 port \d+: Address already .*\n", found.stderr)
    assert "cannot listen on 192.0.2.1 port 8000" in run("serve", PERCEPT_HOST="192.0.2.1").stderr


def test_a_folder_of_bundles_that_is_not_there_is_one_line_and_status_1(tmp_path: Path) -> None:
    found = run("serve", PERCEPT_MODELS=str(tmp_path / "absent"), PERCEPT_PORT="0")
    assert found.returncode == 1
    assert found.stderr == f"percept serve: there is no folder {tmp_path / 'absent'} (PERCEPT_MODELS)\n"


def test_a_command_whose_house_is_not_installed_says_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "percept_models.commands", None)
    with pytest.MonkeyPatch.context():
        assert main(["verify", "x"]) == 1
    assert "pip install 'percept-serve[export]'" in capsys.readouterr().err
