"""deploy/compose as Compose reads it, without Compose.

The files come in; the services leave, and the rule file that the container of Prometheus creates for itself.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.kustomize import DEPLOY

FOLDER = DEPLOY / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def mounted_files(service: str) -> dict[str, Path]:
    """Return the files and folders of this repository in a container: path in the container → path here."""
    found = {}
    for volume in SERVICES[service].get("volumes", ()):
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert mode == ["ro"], volume
            found[target] = (FOLDER / source).resolve()
    return found


def make_rule_file() -> str:
    """Return the rule file that the command of the Prometheus container extracts from the PrometheusRule."""
    (command,) = SERVICES["prometheus"]["command"]
    found = re.match(r"(sed .*) (\S+) > (\S+) &&", command)
    assert found
    sed, source, _ = found.groups()
    done = subprocess.run(
        f"{sed} {mounted_files('prometheus')[source]}", shell=True, check=True, capture_output=True, text=True
    )
    return done.stdout
