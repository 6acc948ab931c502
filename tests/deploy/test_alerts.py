"""Each alert fires for its condition only, and links to its section of the runbook."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.compose import make_rule_file
from tests.deploy.kustomize import DEPLOY
from tests.deploy.queries import RULES

PROMTOOL = shutil.which("promtool")
ALERTS = [rule for group in RULES for rule in group["rules"]]
CASES = Path(__file__).with_name("alerts.yaml")


@pytest.mark.skipif(not PROMTOOL, reason="NOT TESTED: promtool (Debian: prometheus) is not installed")
def test_alerts_fire_for_their_condition_only(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(make_rule_file())
    shutil.copy(CASES, tmp_path)
    for command in (["check", "rules", "rules.yml"], ["test", "rules", CASES.name]):
        done = subprocess.run([str(PROMTOOL), *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


@pytest.mark.parametrize("alert", [rule["alert"] for rule in ALERTS])
def test_alert_has_cases_that_fire_and_that_do_not(alert: str) -> None:
    cases = [each for case in yaml.safe_load(CASES.read_text())["tests"] for each in case["alert_rule_test"]]
    fires = {bool(each.get("exp_alerts")) for each in cases if each["alertname"] == alert}
    assert fires == {True, False}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alert_has_severity_and_runbook_section(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    file, anchor = rule["annotations"]["runbook"].split("#")
    assert anchor == rule["alert"].lower()
    text = (DEPLOY.parent / file).read_text()
    section = re.search(rf"^### {rule['alert']}\n(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section
    assert "**Look**" in section[1]
    assert "**Do**" in section[1]


def test_runbook_has_no_other_sections() -> None:
    headings = re.findall(r"^### (\w+)$", (DEPLOY / "RUNBOOK.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in ALERTS]
