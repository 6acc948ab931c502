"""The command `percept`: commands are listed, and each error is one line that names the remedy."""

import re
import socket
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from percept.errors import PerceptError
from percept.server.cli import COMMANDS, ENTRY_POINT_GROUP, main
from percept.settings import Settings, variable
from percept_models.export import preconditions

PERCEPT = Path(sys.executable).with_name("percept")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PERCEPT, *arguments], capture_output=True, text=True, timeout=60, env={"PATH": "", **environment}
    )


def test_help_describes_every_command_in_one_line() -> None:
    assert {point.name for point in entry_points(group=ENTRY_POINT_GROUP)} == COMMANDS.keys()
    done = run("--help")
    assert done.returncode == 0
    for name, description in COMMANDS.items():
        assert re.search(rf"^ +{name} +{description}$", done.stdout, re.MULTILINE)


def test_help_of_serve_lists_every_setting() -> None:
    text = run("serve", "--help").stdout
    assert all(variable(name) in text for name in Settings.model_fields)
    assert "--models" in text


def test_unknown_command_is_a_usage_error() -> None:
    done = run("sing")
    assert done.returncode == 2
    assert "serve" in done.stderr


@pytest.mark.parametrize(("name", "value"), [("PERCEPT_PORT", "http"), ("PERCEPT_DEVICE", "tpu")])
def test_wrong_setting_is_named_with_its_value(name: str, value: str) -> None:
    done = run("serve", **{name: value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"percept serve: {name}={value}: ")


def test_broken_cuda_is_one_line_and_status_1() -> None:
    done = run("serve", PERCEPT_DEVICE="cuda", CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 1
    assert re.match(r"percept serve: .*CUDA", done.stderr.splitlines()[-1])


def test_unavailable_address_is_one_line_and_status_1() -> None:
    """The error comes before any bundle is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("serve", PERCEPT_PORT=str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert re.fullmatch(r"percept serve: cannot listen on 127\.0\.0\.1 port \d+: Address already .*\n", done.stderr)
    assert "cannot listen on 192.0.2.1 port 8000" in run("serve", PERCEPT_HOST="192.0.2.1").stderr


def test_missing_folder_of_bundles_is_one_line_and_status_1(tmp_path: Path) -> None:
    folder = tmp_path / "absent"
    done = run("serve", PERCEPT_MODELS=str(folder), PERCEPT_PORT="0")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"percept serve: the folder of bundles {folder} does not exist")
    assert "PERCEPT_MODELS" in line


def test_unknown_variable_is_one_line_and_status_1() -> None:
    done = run("serve", PERCEPT_DEADLINE="10")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "percept serve: PERCEPT_DEADLINE=10: there is no such setting; did you mean PERCEPT_DEADLINE_S"
    )


def test_missing_default_model_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "cifar10" / "1").mkdir(parents=True)
    done = run("serve", PERCEPT_MODELS=str(tmp_path), PERCEPT_DEFAULT_MODEL="cifar", PERCEPT_PORT="0")
    assert (done.returncode, done.stderr) == (
        1,
        "percept serve: PERCEPT_DEFAULT_MODEL=cifar: the repository has no bundle of 'cifar'; "
        "it has bundles of cifar10; did you mean cifar10?\n",
    )


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "percept_models.commands", None)
    assert main(["verify", "x"]) == 1
    assert "pip install 'percept-serve[export]'" in capsys.readouterr().err


def test_missing_package_is_named_with_its_extra(tmp_path: Path) -> None:
    source = tmp_path / "net.onnx"
    source.touch()
    arguments = ["export", str(source), "--name", "net", "--out", str(tmp_path)]
    code = (
        "import sys\n"
        "sys.modules['onnx'] = sys.modules['torch'] = None\n"
        "from percept.server.cli import main\n"
        f"sys.exit(main({arguments}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(
        r"percept export: the package (torch|onnx) is not installed: run pip install 'percept-serve\[export\]'\n",
        done.stderr,
    )


def test_error_is_one_line_without_terminal_escapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(bundle: Path) -> None:
        raise PerceptError("\x1b[96mstep 3\x1b[0m of\n\n  several")

    monkeypatch.setattr(preconditions, "require_bundle", fail)
    assert main(["layers", "any"]) == 1
    assert capsys.readouterr().err == "percept layers: step 3 of several\n"
