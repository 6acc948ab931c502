"""The objects that `kubectl apply -k` would send to a cluster, for every kustomization in deploy/.

A folder of deploy/ comes in, its rendered objects leave; a component is rendered on top of an overlay, as a user would.
Needs kubectl, and no cluster.
"""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from percept.settings import Settings, variable

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
# The image without its target, `-cpu` or `-cuda`.
IMAGE = "percept:" + tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
KUBECTL = shutil.which("kubectl")
needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="NOT VALIDATED: kubectl is not installed, nothing was rendered")

_FOLDERS = sorted(path.parent for path in DEPLOY.rglob("kustomization.yaml"))
OVERLAYS = [str(f.relative_to(DEPLOY)) for f in _FOLDERS if "components" not in f.parts]
COMPONENTS = [str(f.relative_to(DEPLOY)) for f in _FOLDERS if "components" in f.parts]
RENDERED = [*OVERLAYS, *(f"kubernetes/overlays/gpu {component}" for component in COMPONENTS)]


@cache
def render(name: str) -> list[Object]:
    """Return the objects of an overlay, with components if `name` has their folders after spaces."""
    overlay, *components = (DEPLOY / part for part in name.split())
    return render_custom({"resources": [overlay], "components": components}) if components else _kustomize(overlay)


def render_custom(kustomization: dict[str, Any]) -> list[Object]:
    """Return the objects of a kustomization that is given here, with folders as absolute paths."""
    with TemporaryDirectory() as folder:
        for key in ("resources", "components"):
            kustomization[key] = [os.path.relpath(path, Path(folder).resolve()) for path in kustomization.get(key, ())]
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _kustomize(Path(folder))


def find_one(kind: str, objects: list[Object]) -> Object:
    """Return the only object of a kind."""
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield the name and the pod specification of every Deployment."""
    for each in objects:
        if each["kind"] == "Deployment":
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def containers(pod: Object) -> list[Object]:
    """Return all containers of a pod, init containers first."""
    return [*pod.get("initContainers", ()), *pod["containers"]]


def read_environment(objects: list[Object]) -> dict[str, str]:
    """Return the environment of the service's container, from its ConfigMaps and its own variables."""
    maps = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    ((_, pod),) = pods(objects)
    (container,) = pod["containers"]
    variables: dict[str, str] = {}
    for source in container["envFrom"]:
        variables |= maps[source["configMapRef"]["name"]]
    for each in container["env"]:
        variables[each["name"]] = each.get("value") or _resource(container, each["valueFrom"]["resourceFieldRef"])
    return variables


def parse_settings(variables: dict[str, str]) -> Settings:
    """Return the settings for an environment; fails if a variable is not one of the settings."""
    fields = {variable(name): name for name in Settings.model_fields}
    assert variables.keys() <= fields.keys()
    return Settings(**{fields[name]: value for name, value in variables.items()})  # type: ignore[arg-type]


def _resource(container: Object, reference: Object) -> str:
    """Return the value that the kubelet inserts for a reference to `requests` or `limits`, which it rounds up."""
    kind, name = reference["resource"].split(".")
    return str(container["resources"][kind][name])


def _kustomize(folder: Path) -> list[Object]:
    assert KUBECTL
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # warnings about deprecated fields
    return list(yaml.safe_load_all(done.stdout))
