"""Settings are read from environment variables, and an error names the variable and the value."""

from typing import Any

import pytest
from pydantic import ValidationError

from percept.errors import PerceptError
from percept.settings import (
    Settings,
    TracingSettings,
    describe_settings,
    format_settings_errors,
    reject_unknown_variables,
    variable,
)


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPT_PORT", "1234")
    monkeypatch.setenv("PERCEPT_DEADLINE_S", "0.5")
    settings = Settings(host="::1")
    assert (settings.port, settings.deadline_s, settings.host) == (1234, 0.5, "::1")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    described = describe_settings()
    assert list(described) == [variable(name) for name in Settings.model_fields]
    assert described["PERCEPT_PORT"].endswith("default: 8000")
    assert all("default" in text and "None" not in text for text in described.values())


def test_error_names_variable_and_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPT_PORT", "70000")
    monkeypatch.setenv("PERCEPT_DEVICE", "tpu")
    with pytest.raises(ValidationError) as raised:
        Settings()
    port, device = format_settings_errors(raised.value)
    assert port.startswith("PERCEPT_PORT=70000: ")
    assert device.startswith("PERCEPT_DEVICE=tpu: ")
    assert "'cuda'" in device


def test_address_of_a_service_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPT_PORT", "tcp://10.0.0.1:8000")
    with pytest.raises(ValidationError) as raised:
        Settings()
    (line,) = format_settings_errors(raised.value)
    assert line.startswith("PERCEPT_PORT=tcp://10.0.0.1:8000: Kubernetes sets this variable")
    assert "enableServiceLinks: false" in line


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("PERCEPT_MAX_QUEU", "; did you mean PERCEPT_MAX_QUEUE"),
        ("percept_dedline_s", "; did you mean PERCEPT_DEADLINE_S"),
        ("PERCEPT_HTTP_PORT", "; did you mean PERCEPT_PORT"),
        ("PERCEPT_ZZZ", ""),
    ],
)
def test_unknown_variable_is_rejected(name: str, suggestion: str) -> None:
    with pytest.raises(PerceptError) as raised:
        reject_unknown_variables({"PERCEPT_PORT": "1", name: "8"})
    assert str(raised.value).startswith(f"{name}=8: there is no such setting{suggestion}")


def test_variables_of_services_and_others_are_ignored() -> None:
    """Kubernetes sets these for Services named percept and percept-models."""
    reject_unknown_variables(
        {
            "PERCEPT_SERVICE_HOST": "10.0.0.1",
            "PERCEPT_SERVICE_PORT": "80",
            "PERCEPT_SERVICE_PORT_HTTP": "80",
            "PERCEPT_PORT_8000_TCP": "tcp://10.0.0.1:8000",
            "PERCEPT_PORT_8000_TCP_ADDR": "10.0.0.1",
            "PERCEPT_PORT_8000_TCP_PROTO": "tcp",
            "PERCEPT_MODELS_PORT": "tcp://10.0.0.2:80",
            "PERCEPT_MODELS_SERVICE_HOST": "10.0.0.2",
            "PERCEPTION": "1",
            "percept_port": "8000",
            "OTHER_PERCEPT_X": "1",
        }
    )


@pytest.mark.parametrize(
    ("variables", "exporters"),
    [
        ({}, []),
        ({"exporter_otlp_endpoint": "http://a:4318"}, ["otlp"]),
        ({"exporter_otlp_traces_endpoint": "http://a:4318/v1/traces"}, ["otlp"]),
        ({"traces_exporter": "otlp"}, ["otlp"]),
        ({"traces_exporter": "console"}, ["console"]),
        ({"traces_exporter": "otlp, console,otlp"}, ["otlp", "console"]),
        ({"traces_exporter": "none", "exporter_otlp_endpoint": "http://a:4318"}, []),
        ({"traces_exporter": "zipkin"}, []),
        ({"exporter_otlp_endpoint": "http://a:4318", "sdk_disabled": "True"}, []),
        ({"exporter_otlp_endpoint": "http://a:4318", "sdk_disabled": "no"}, ["otlp"]),
    ],
)
def test_tracing_variables_select_the_exporters(variables: dict[str, Any], exporters: list[str]) -> None:
    assert list(TracingSettings(**variables).exporters) == exporters


def test_tracing_settings_are_read_from_standard_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TracingSettings.model_fields:
        monkeypatch.setenv(f"OTEL_{name.upper()}", name)
    assert TracingSettings().model_dump() == {name: name for name in TracingSettings.model_fields}
