"""Compose starts Percept, Prometheus and Grafana from files that exist and fit together.

Compose itself does not run: the file is validated against the published schema, and the mounted files are read here.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from percept.server.uvicorn_server import SHUTDOWN_SLACK_S
from percept.settings import Settings
from tests.deploy.compose import COMPOSE, FOLDER, SERVICES, make_rule_file, mounted_files
from tests.deploy.kustomize import IMAGE, ROOT, parse_settings
from tests.deploy.queries import MONITORING, RULES

PROMTOOL = shutil.which("promtool")
VALIDATOR = jsonschema.Draft201909Validator(
    json.loads((Path(__file__).parent / "schemas" / "compose.json").read_text())
)


def test_compose_file_is_valid() -> None:
    VALIDATOR.validate(
        {key: value for key, value in COMPOSE.items() if key != "name"}
    )  # the schema is older than `name`
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(COMPOSE | {"services": {"a": {"unknown": 1}}})


def test_mounted_files_exist_and_volumes_are_declared() -> None:
    for name, service in SERVICES.items():
        assert all(path.exists() for path in mounted_files(name).values())
        volumes = {volume.split(":")[0] for volume in service.get("volumes", ())}
        assert {name for name in volumes if not name.startswith(".")} <= COMPOSE["volumes"].keys()


def test_percept_has_its_image_and_time_to_stop() -> None:
    percept = SERVICES["percept"]
    assert percept["image"] == f"{IMAGE}-cpu"
    assert (FOLDER / percept["build"]["context"]).resolve() == ROOT
    settings = parse_settings(percept.get("environment", {}))
    assert int(percept["stop_grace_period"].removesuffix("s")) > settings.deadline_s + SHUTDOWN_SLACK_S
    assert (percept["read_only"], percept["cap_drop"]) == (True, ["ALL"])


def test_ports_are_bound_to_localhost() -> None:
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service["ports"])


def test_prometheus_scrapes_percept_and_loads_the_alerts() -> None:
    assert yaml.safe_load(make_rule_file())["groups"] == RULES
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "percept"  # the alerts select this job
    assert job["static_configs"] == [{"targets": [f"percept:{Settings.model_fields['port'].default}"]}]
    (command,) = SERVICES["prometheus"]["command"]
    assert re.findall(r"> (\S+) &&", command) == config["rule_files"]
    assert re.findall(r"--config.file=(\S+)", command)[0] in mounted_files("prometheus")


@pytest.mark.skipif(not PROMTOOL, reason="NOT TESTED: promtool (Debian: prometheus) is not installed")
def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    text = (FOLDER / "prometheus.yml").read_text().replace("/tmp/rules.yml", "rules.yml")
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / "rules.yml").write_text(make_rule_file())
    done = subprocess.run(
        [str(PROMTOOL), "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_has_its_data_source_and_dashboard() -> None:
    files = mounted_files("grafana")
    provisioning = files["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/percept.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards/percept.yaml").read_text())["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert files[home] == MONITORING / "dashboard.json"
    assert home.startswith(provider["options"]["path"])
