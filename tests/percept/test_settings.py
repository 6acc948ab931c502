"""Settings are read from environment variables, and an error names the variable and the value."""

from typing import Any

import pytest
from pydantic import ValidationError

from percept.settings import Settings, TracingSettings, describe_settings, format_settings_errors, variable


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
