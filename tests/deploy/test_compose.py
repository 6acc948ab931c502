"""Compose starts Percept, Prometheus and Grafana from files that exist and fit together.

Compose itself is not asked: the file is held against the published schema, and what it mounts is read here.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from percept.server.uvicorn_server import SLACK_S
from percept.settings import Settings
from tests.deploy.cluster import IMAGE, ROOT, accept
from tests.deploy.compose import COMPOSE, FOLDER, SERVICES, mounted, rule_file
from tests.deploy.queries import MONITORING, RULES

PROMTOOL = shutil.which("promtool")
VALIDATOR = jsonschema.Draft201909Validator(
    json.loads((Path(__file__).parent / "schemas" / "compose.json").read_text())
)


def test_it_fits_the_schema_of_compose() -> None:
    VALIDATOR.validate({key: value for key, value in COMPOSE.items() if key != "name"})  # a name came after the schema
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(COMPOSE | {"services": {"a": {"unknown": 1}}})


def test_whatever_is_mounted_exists_and_named_volumes_are_declared() -> None:
    for name, service in SERVICES.items():
        assert all(path.exists() for path in mounted(name).values())
        volumes = {volume.split(":")[0] for volume in service.get("volumes", ())}
        assert {name for name in volumes if not name.startswith(".")} <= COMPOSE["volumes"].keys()


def test_percept_is_the_image_of_this_version_and_has_time_to_finish() -> None:
    percept = SERVICES["percept"]
    assert percept["image"] == f"{IMAGE}-cpu"
    assert (FOLDER / percept["build"]["context"]).resolve() == ROOT
    told = accept(percept.get("environment", {}))
    assert int(percept["stop_grace_period"].removesuffix("s")) > told.deadline_s + SLACK_S
    assert (percept["read_only"], percept["cap_drop"]) == (True, ["ALL"])


def test_ports_are_open_to_this_machine_only() -> None:
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service["ports"])


def test_prometheus_reads_the_alerts_of_kubernetes_and_scrapes_percept(tmp_path: Path) -> None:
    assert yaml.safe_load(rule_file())["groups"] == RULES
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "percept"  # as the alerts call it
    assert job["static_configs"] == [{"targets": [f"percept:{Settings.model_fields['port'].default}"]}]
    (command,) = SERVICES["prometheus"]["command"]
    assert re.findall(r"> (\S+) &&", command) == config["rule_files"]
    assert re.findall(r"--config.file=(\S+)", command)[0] in mounted("prometheus")


@pytest.mark.skipif(not PROMTOOL, reason="NOT TESTED: promtool (Debian: prometheus) is not installed")
def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    text = (FOLDER / "prometheus.yml").read_text().replace("/tmp/rules.yml", "rules.yml")
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / "rules.yml").write_text(rule_file())
    done = subprocess.run(
        [str(PROMTOOL), "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_prometheus_and_the_dashboard_of_kubernetes() -> None:
    seen = mounted("grafana")
    provisioning = seen["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/percept.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards/percept.yaml").read_text())["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert seen[home] == MONITORING / "dashboard.json"
    assert home.startswith(provider["options"]["path"])
