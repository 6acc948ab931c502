"""The wheel holds every module, every data file and the built-in bundles."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent


def test_wheel_holds_every_file(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True)
    wheel = next(tmp_path.glob("percept_serve-*.whl"))
    found = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        str(prefix / file.relative_to(folder))
        for prefix, folder in (
            (Path("percept"), ROOT / "service" / "percept"),
            (Path("percept_models"), ROOT / "models" / "percept_models"),
            (Path("percept/repository"), ROOT / "models" / "repository"),
        )
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert found == expected
