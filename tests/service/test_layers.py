"""The plan of the rooms: imports run downwards only, and the online house knows nothing of the offline one."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FLOORS = {
    1: {"errors", "settings", "cores", "cam", "stages", "buckets", "providers", "identity", "gpu"},
    2: {"metrics", "logs", "tracing", "manifest", "crew", "session", "media", "problems", "masking", "tensors"},
    3: {
        "timing",
        "server",
        "image",
        "batcher",
        "plan",
        "ports",
        "request",
        "archive",
        "asking",
        "filters",
        "tensors",
        "signature",
    },
    4: {"network"},
    5: {"tasks", "render", "model", "regions", "components", "faithfulness", "gallery", "methods"},
    6: {"repository", "view", "sheet", "store", "judge", "evaluation"},
    7: {"probe", "influence"},
    8: {"explain"},
    9: {"field", "catalogue"},
    10: {"pipeline", "drawing"},
    11: {"answers", "evaluate", "inference", "routes.query"},
    12: {"parts", "routes.looking", "gauges"},
    13: {
        "routes.predict",
        "routes.features",
        "routes.cam",
        "routes.models",
        "routes.filters",
        "routes.health",
        "routes.metrics",
        "routes.v2",
        "routes.control",
    },
    14: {"routes.short"},
    15: {"app"},
    16: {"__main__"},
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}


def modules(house: str) -> dict[str, Path]:
    folder = ROOT / house
    files = {".".join(f.relative_to(folder).with_suffix("").parts): f for f in folder.rglob("*.py")}
    return {name: file for name, file in files.items() if not name.endswith("__init__")}


def imported(file: Path) -> set[str]:
    """Every module that a file imports, wherever in it, with `from a import b` as both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_has_a_floor() -> None:
    assert set(modules("service")) == set(FLOOR)


@pytest.mark.parametrize("name", FLOOR)
def test_imports_run_downwards(name: str) -> None:
    own = {m.removeprefix("service.") for m in imported(modules("service")[name])} & set(FLOOR)
    assert {m for m in own if FLOOR[m] >= FLOOR[name]} == set()


def test_the_online_house_knows_nothing_of_the_offline_one() -> None:
    for file in modules("service").values():
        roots = {name.split(".")[0] for name in imported(file)}
        assert not roots & {"torch", "torchvision", "onnx", "onnxscript", "models", "tests"}, file


def test_only_the_session_knows_onnx_runtime() -> None:
    files = {**modules("service"), **modules("models")}
    assert [name for name, file in files.items() if "onnxruntime" in imported(file)] == ["session"]


def test_the_offline_house_knows_little_of_the_online_one() -> None:
    allowed = {"service.manifest", "service.errors", "service.session", "service.image"}
    for name, file in modules("models").items():
        used = {m for m in imported(file) if m.startswith("service.") and m.count(".") == 1}
        assert used <= allowed, name


def test_the_service_starts_where_torch_and_onnx_cannot_be_imported(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxscript', 'models'): sys.modules[name] = None\n"
        "from service.app import create_app; create_app()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
