"""deploy/compose as Compose reads it, without Compose.

The files go in; the services come out, and the rule file that the container of Prometheus makes for itself.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.cluster import DEPLOY

FOLDER = DEPLOY / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def mounted(service: str) -> dict[str, Path]:
    """Files and folders of this repository in a container: where they are seen, and where they lie."""
    found = {}
    for volume in SERVICES[service].get("volumes", ()):
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert mode == ["ro"], volume
            found[target] = (FOLDER / source).resolve()
    return found


def rule_file() -> str:
    """What the command of the container of Prometheus makes of the PrometheusRule."""
    (command,) = SERVICES["prometheus"]["command"]
    made = re.match(r"(sed .*) (\S+) > (\S+) &&", command)
    assert made
    sed, source, _ = made.groups()
    done = subprocess.run(
        f"{sed} {mounted('prometheus')[source]}", shell=True, check=True, capture_output=True, text=True
    )
    return done.stdout
