"""Process-wide state: the only module that changes what belongs to the whole process instead of to one object.

One function for each library or concern, with its reason. A module that depends on a library calls the function for it
when the module is imported; the command line calls those that concern the whole program. Only ONNX Runtime's shared
arena is created elsewhere, in `percept.runtime.session`, the only module that imports ONNX Runtime.
"""

import os
import signal
import sys
import warnings

SWITCH_INTERVAL_S = 1e-4


def disable_onnxruntime_telemetry() -> None:
    """Keep ONNX Runtime from opening connections of its own; call this before it is imported.

    Its function `disable_telemetry_events` is too late: the import has already started the uploader, which connects ten
    seconds later (ONNX Runtime 1.31, strace; microsoft/onnxruntime pull request 27379).
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def lift_pillow_pixel_limit() -> None:
    """Disable Pillow's own limit on pixels, which only warns: `percept.imaging.decode` enforces the setting."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None


def ignore_pillow_warnings() -> None:
    """Ignore Pillow's warnings about odd image files: clients send them, and operators cannot act on them."""
    warnings.filterwarnings("ignore", module=r"PIL\b")


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
