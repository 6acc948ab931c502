"""Every setting of the service: one frozen object, built once at the entrance and passed down.

Each field is read from the environment as `PERCEPT_<FIELD>`; nothing else in the service reads the environment.
What OpenTelemetry has a variable for keeps its name: the few that decide whether there are traces stand here too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

PACKAGED_BUNDLES = Path(__file__).resolve().parent / "repository"  # in an installed wheel
CHECKOUT_BUNDLES = Path(__file__).resolve().parents[2] / "models" / "repository"
BUILT_IN = PACKAGED_BUNDLES if PACKAGED_BUNDLES.is_dir() else CHECKOUT_BUNDLES
EXPORTERS = ("otlp", "console")
PROTOCOL = "http/protobuf"  # of OpenTelemetry's protocols the one that needs no gRPC


class Settings(BaseSettings):
    """How to serve; the defaults suit a person at their own machine."""

    model_config = SettingsConfigDict(env_prefix="PERCEPT_", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    models: Path = Field(BUILT_IN, description="folder of bundles, <name>/<version>/ inside")
    default_model: str | None = Field(None, description="who answers where no model is named")
    model_control: Literal["none", "explicit"] = Field(
        "none", description="explicit: /v2/repository may load and unload"
    )
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = Field("auto", description="auto takes CUDA if it works")
    gpu_memory_bytes: PositiveInt | None = Field(None, description="GPU memory of one graph; none: all there is")
    engine_cache: Path | None = Field(None, description="folder for the engines of TensorRT; none: built at each start")
    threads: PositiveInt | None = Field(None, description="worker threads; none: one per core")
    max_batch: PositiveInt | None = Field(None, description="images in a batch; none: by device")
    max_queue: PositiveInt = Field(256, description="images that may wait for one model")
    max_image_bytes: PositiveInt = Field(20 * 2**20, description="size of one encoded image")
    max_image_pixels: PositiveInt = Field(50_000_000, description="width times height of an image")
    max_images: PositiveInt = Field(16, description="images in one request")
    store_bytes: int = Field(64 * 2**20, ge=0, description="for the last images, to look at them again; 0: none")
    store_s: PositiveFloat = Field(600, description="seconds that an image is kept after it was last asked for")
    deadline_s: PositiveFloat = Field(30, description="seconds that an answer may take")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = Field("text", description="json: one object in each line, for programs")


class Telemetry(BaseSettings):
    """Whether there are traces, by OpenTelemetry's own variables `OTEL_<FIELD>`; an empty one is as none.

    A wrong value must not keep a service from starting, so says OpenTelemetry: none is checked here.
    """

    model_config = SettingsConfigDict(env_prefix="OTEL_", frozen=True)

    traces_exporter: str = Field("", description="otlp, console, none, or several with commas")
    exporter_otlp_endpoint: str = Field("", description="where the collector is: traces go there")
    exporter_otlp_traces_endpoint: str = Field("", description="the same for traces alone, with the whole path")
    exporter_otlp_protocol: str = Field("", description="http/protobuf is what there is")
    exporter_otlp_traces_protocol: str = Field("", description="the same for traces alone")
    sdk_disabled: str = Field("", description="true: no traces, whatever else says")

    @property
    def exporters(self) -> Sequence[str]:
        """Where traces go, of `otlp` and `console`; nowhere unless something asks for it."""
        if self.sdk_disabled.strip().lower() == "true":
            return []
        asked = self.traces_exporter or ("otlp" if self._endpoint else "")
        names = dict.fromkeys(name.strip().lower() for name in asked.split(","))
        return [name for name in names if name in EXPORTERS]

    @property
    def protocol(self) -> str:
        """How they are to be sent."""
        return self.exporter_otlp_traces_protocol or self.exporter_otlp_protocol or PROTOCOL

    @property
    def _endpoint(self) -> str:
        return self.exporter_otlp_traces_endpoint or self.exporter_otlp_endpoint
