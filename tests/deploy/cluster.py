"""What `kubectl apply -k` would send to a cluster: the objects of every kustomization under deploy/.

A folder of deploy/ goes in, its rendered objects come out; a component is rendered on top of an overlay, as a user
would. Needs kubectl, and no cluster.
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

from percept.settings import Settings

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
IMAGE = "percept:" + tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]  # and the target
KUBECTL = shutil.which("kubectl")
needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="NOT VALIDATED: kubectl is not installed, nothing was rendered")

_FOLDERS = sorted(path.parent for path in DEPLOY.rglob("kustomization.yaml"))
OVERLAYS = [str(f.relative_to(DEPLOY)) for f in _FOLDERS if "components" not in f.parts]
COMPONENTS = [str(f.relative_to(DEPLOY)) for f in _FOLDERS if "components" in f.parts]
RENDERED = [*OVERLAYS, *(f"kubernetes/overlays/gpu {component}" for component in COMPONENTS)]


@cache
def rendered(what: str) -> list[Object]:
    """The objects of `what`: an overlay, and components after a space."""
    overlay, *components = (DEPLOY / part for part in what.split())
    return custom({"resources": [overlay], "components": components}) if components else _kustomize(overlay)


def custom(kustomization: dict[str, Any]) -> list[Object]:
    """The objects of a kustomization of one's own, whose folders are absolute paths."""
    with TemporaryDirectory() as folder:
        for key in ("resources", "components"):
            kustomization[key] = [os.path.relpath(path, Path(folder).resolve()) for path in kustomization.get(key, ())]
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _kustomize(Path(folder))


def one(kind: str, objects: list[Object]) -> Object:
    """The only object of a kind."""
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """The name and the pod specification of everything that starts pods by itself."""
    for each in objects:
        if each["kind"] == "Deployment":
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def containers(pod: Object) -> list[Object]:
    """All containers of a pod, those that run first too."""
    return [*pod.get("initContainers", ()), *pod["containers"]]


def environment(objects: list[Object]) -> dict[str, str]:
    """What the service's container is told: the ConfigMaps it refers to, by their rendered names, and its own."""
    maps = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    ((_, pod),) = pods(objects)
    (container,) = pod["containers"]
    told: dict[str, str] = {}
    for source in container["envFrom"]:
        told |= maps[source["configMapRef"]["name"]]
    for variable in container["env"]:
        told[variable["name"]] = variable.get("value") or _field(container, variable["valueFrom"]["resourceFieldRef"])
    return told


def accept(told: dict[str, str]) -> Settings:
    """The settings for an environment; every variable of it must be one."""
    named = {name.removeprefix("PERCEPT_").lower(): value for name, value in told.items()}
    assert told.keys() == {f"PERCEPT_{name.upper()}" for name in named}
    assert named.keys() <= Settings.model_fields.keys()
    return Settings(**named)  # type: ignore[arg-type]


def _field(container: Object, reference: Object) -> str:
    """What the kubelet puts there: a number of resources, rounded up."""
    kind, name = reference["resource"].split(".")
    return str(container["resources"][kind][name])


def _kustomize(folder: Path) -> list[Object]:
    assert KUBECTL
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # what kustomize finds deprecated
    return list(yaml.safe_load_all(done.stdout))
