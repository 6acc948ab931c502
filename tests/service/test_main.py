"""The command `percept`."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.__main__ import main

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


def test_a_command_whose_house_is_not_installed_says_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "models.__main__", None)
    with pytest.MonkeyPatch.context():
        assert main(["verify", "x"]) == 1
    assert "pip install 'percept[export]'" in capsys.readouterr().err
