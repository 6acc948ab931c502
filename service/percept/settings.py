"""Every setting of the service: one frozen object, built once by the command line and passed down.

Each field is read from the environment variable `PERCEPT_<FIELD>`; no other module reads the environment. Settings that
OpenTelemetry has standard variables for keep those names: `TracingSettings` has the few that request traces.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from percept.errors import PerceptError, describe_invalid_field, did_you_mean

PREFIX = "PERCEPT_"
PACKAGED_BUNDLES = Path(__file__).resolve().parent / "repository"  # in an installed wheel
CHECKOUT_BUNDLES = Path(__file__).resolve().parents[2] / "models" / "repository"
BUILT_IN_BUNDLES = PACKAGED_BUNDLES if PACKAGED_BUNDLES.is_dir() else CHECKOUT_BUNDLES
# What Kubernetes sets in every pod for a Service named percept or percept-…, unless `enableServiceLinks` is false:
# PERCEPT_PORT=tcp://10.0.0.1:80, and names such as PERCEPT_SERVICE_HOST and PERCEPT_PORT_80_TCP_ADDR.
SERVICE_LINK = re.compile(PREFIX + r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
ADDRESS_SCHEMES = ("tcp://", "udp://", "sctp://")
SERVICE_LINK_REASON = (
    "Kubernetes sets this variable for a Service of that name; set enableServiceLinks: false in the pod, "
    "or the variable in the container"
)
TRACE_EXPORTERS = ("otlp", "console")
OTLP_PROTOCOL = "http/protobuf"  # the only one of OpenTelemetry's protocols that needs no gRPC


class Settings(BaseSettings):
    """The settings of the service. The defaults suit development on one machine."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 chooses a free port")
    models: Path = Field(
        BUILT_IN_BUNDLES, description="folder of bundles, as <name>/<version>/; default: the built-in bundles"
    )
    default_model: str | None = Field(
        None, description="model for requests that name none; default: the first classifier by name"
    )
    model_control: Literal["none", "explicit"] = Field(
        "none", description="none, or explicit: clients may load and unload models through /v2/repository"
    )
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        "auto", description="cpu, cuda, tensorrt, or auto: CUDA if it works, else the CPU"
    )
    gpu_memory_bytes: PositiveInt | None = Field(None, description="GPU memory limit of each graph; default: no limit")
    engine_cache: Path | None = Field(
        None, description="folder for TensorRT engines; default: engines are built at each start"
    )
    threads: PositiveInt | None = Field(None, description="worker threads; default: one for each core")
    max_batch: PositiveInt | None = Field(
        None, description="maximum number of images in a batch; default: 1 on a CPU, 16 on a GPU"
    )
    max_queue: PositiveInt = Field(256, description="maximum number of requests that wait for one model")
    max_image_bytes: PositiveInt = Field(20 * 2**20, description="maximum size of one encoded image in bytes")
    max_image_pixels: PositiveInt = Field(
        50_000_000, description="maximum size of one image in pixels, width times height"
    )
    max_images: PositiveInt = Field(16, description="maximum number of images in one request")
    store_bytes: int = Field(64 * 2**20, ge=0, description="memory of the image cache in bytes; 0 disables the cache")
    store_s: PositiveFloat = Field(600, description="seconds that an image stays in the cache after its last use")
    deadline_s: PositiveFloat = Field(30, description="seconds after which a request is refused with 504")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level to log: debug, info, warning or error"
    )
    log_format: Literal["text", "json"] = Field("text", description="text, or json: one JSON object per line")


class TracingSettings(BaseSettings):
    """Whether traces are sent, and where, from OpenTelemetry's standard variables `OTEL_<FIELD>`.

    An empty variable counts as unset. No value is validated: by OpenTelemetry's specification a wrong value must not
    keep a service from starting.
    """

    model_config = SettingsConfigDict(env_prefix="OTEL_", frozen=True)

    traces_exporter: str = Field("", description="otlp, console or none; several are separated by commas")
    exporter_otlp_endpoint: str = Field("", description="URL of the collector")
    exporter_otlp_traces_endpoint: str = Field("", description="URL of the collector for traces, with the path")
    exporter_otlp_protocol: str = Field("", description="only http/protobuf is supported")
    exporter_otlp_traces_protocol: str = Field("", description="protocol for traces; only http/protobuf is supported")
    sdk_disabled: str = Field("", description="true: no traces, whatever the other variables say")

    @property
    def exporters(self) -> Sequence[str]:
        """The exporters to send traces to, of `otlp` and `console`; empty unless a variable requests one."""
        if self.sdk_disabled.strip().lower() == "true":
            return []
        requested = self.traces_exporter or ("otlp" if self._endpoint else "")
        names = dict.fromkeys(name.strip().lower() for name in requested.split(","))
        return [name for name in names if name in TRACE_EXPORTERS]

    @property
    def protocol(self) -> str:
        """The OTLP protocol that the variables request."""
        return self.exporter_otlp_traces_protocol or self.exporter_otlp_protocol or OTLP_PROTOCOL

    @property
    def _endpoint(self) -> str:
        return self.exporter_otlp_traces_endpoint or self.exporter_otlp_endpoint


def variable(field: str) -> str:
    """Return the environment variable of a field of `Settings`, such as `PERCEPT_PORT` of `port`."""
    return PREFIX + field.upper()


def describe_settings() -> dict[str, str]:
    """Return the description and the default of every environment variable of `Settings`."""
    described = {}
    for name, field in Settings.model_fields.items():
        text = field.description or ""
        described[variable(name)] = text if "default" in text else f"{text}; default: {field.default}"
    return described


def format_settings_errors(error: ValidationError) -> list[str]:
    """Return one line for each wrong value of `Settings`: the variable, the value, and what is expected."""
    return [
        f"{variable(str(e['loc'][0]))}={e['input']}: "
        + (SERVICE_LINK_REASON if str(e["input"]).startswith(ADDRESS_SCHEMES) else describe_invalid_field(e))
        for e in error.errors()
    ]


def reject_unknown_variables(environment: Mapping[str, str] = os.environ) -> None:
    """Raise `PerceptError` for a variable that begins with `PERCEPT_` and is no setting, such as a misspelt one.

    Variables that Kubernetes sets for a Service whose name begins with `percept` are ignored.
    """
    known = [*describe_settings()]
    for name in sorted(environment):
        if not name.upper().startswith(PREFIX) or name.upper() in known:
            continue
        if not SERVICE_LINK.fullmatch(name) and not environment[name].startswith(ADDRESS_SCHEMES):
            raise PerceptError(f"{name}={environment[name]}: there is no such setting{did_you_mean(name, known)}")
