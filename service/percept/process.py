"""Process-wide state: the only module that changes what belongs to the whole process instead of to one object.

One function for each library or concern, with its reason. A module that depends on a library calls the function for it
when the module is imported; the command line calls those that concern the whole program. Only ONNX Runtime's shared
arena is created elsewhere, in `percept.runtime.session`, the only module that imports ONNX Runtime.
"""

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator

SWITCH_INTERVAL_S = 1e-4
PNG_PROFILE = b"iCCP"
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PNG_TEXT_BYTES = 2**22  # inflated text of one file, after which the rest is skipped


def disable_onnxruntime_telemetry() -> None:
    """Keep ONNX Runtime from opening connections of its own; call this before it is imported.

    Its function `disable_telemetry_events` is too late: the import has already started the uploader, which connects ten
    seconds later (ONNX Runtime 1.31, strace; microsoft/onnxruntime pull request 27379).
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def lift_pillow_limits() -> None:
    """Disable Pillow's limit on pixels, which only warns, and skip in PNG files what exceeds its limits on text.

    `percept.imaging.decode` enforces the setting for pixels. Percept needs no text and no colour profile, and Pillow
    refuses a file whose text or profile is larger than 1 MB inflated. Inflating it instead would be worse: 1 MB of
    compressed profiles took 2.4 s.
    """
    from PIL import Image, PngImagePlugin

    class PngStream(PngImagePlugin.PngStream):
        """Skips colour profiles, and text after the first that exceeds a limit."""

        def call(self, cid: bytes, pos: int, length: int) -> bytes:
            is_text = cid in PNG_TEXTS
            if cid == PNG_PROFILE or (is_text and self.text_memory > PNG_TEXT_BYTES):
                return self._skip(pos, length)
            try:
                return super().call(cid, pos, length)
            except ValueError:
                if not is_text:
                    raise
                self.text_memory = sys.maxsize
                return self._skip(pos, length)

        def _skip(self, pos: int, length: int) -> bytes:
            assert self.fp is not None
            self.fp.seek(pos)
            return self.fp.read(length)

    Image.MAX_IMAGE_PIXELS = None
    setattr(PngImagePlugin, "PngStream", PngStream)  # noqa: B010 (mypy allows no assignment to a class)


def register_image_decoders() -> list[str]:
    """Register the decoders of the extras `heif` and `jxl` that are installed with Pillow, and return their formats."""
    formats = []
    with contextlib.suppress(ImportError):
        from pi_heif import register_heif_opener

        register_heif_opener(decode_threads=1, thumbnails=False)
        formats.append("HEIF")
    with contextlib.suppress(ImportError):
        from pylibjxl import register_pillow

        register_pillow()
        formats.append("JXL")
    return formats


def ignore_pillow_warnings() -> None:
    """Ignore Pillow's warnings about odd image files: clients send them, and operators cannot act on them."""
    warnings.filterwarnings("ignore", module=r"PIL\b")


@contextlib.contextmanager
def silence_libraries() -> Iterator[None]:
    """Keep deprecation warnings, and logs with tracebacks, of torch and onnx off the terminal of a command.

    All logging is disabled, because torch sets the levels of its loggers when it is imported.
    """
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logging.disable(logging.NOTSET)


def disable_created_metrics() -> None:
    """Omit the `_created` series of prometheus_client: Prometheus would store one more gauge for each series."""
    from prometheus_client import disable_created_metrics

    disable_created_metrics()  # type: ignore[no-untyped-call]


def shorten_switch_interval() -> None:
    """Let a thread that returns from decoding or inference wait at most 0.1 ms for the interpreter lock.

    While it waits, its core is idle. Python's default of 5 ms is longer than the event loop is ever busy (SqueezeNet on
    2 cores: 1.06 times the images per second).
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def interrupt_on_sigterm() -> None:
    """Raise `KeyboardInterrupt` on SIGTERM until uvicorn installs its own handlers.

    Linux ignores a signal without a handler in process 1, which the server is in a container.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
