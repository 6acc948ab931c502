"""Every setting of the service: one frozen object, built once at the entrance and passed down.

Each field is read from the environment as `PERCEPT_<FIELD>`; nothing else in the service reads the environment.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

BUILT_IN = Path(__file__).resolve().parent.parent / "models" / "repository"


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
