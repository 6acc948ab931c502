"""The process-wide state is set where the modules that need it are imported."""

import logging
import subprocess
import sys
import warnings

import pytest

from percept import process


def test_importing_the_server_sets_the_process_state() -> None:
    code = (
        "import os, percept.server.app\n"
        "from PIL import Image\n"
        "from prometheus_client import Counter\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'\n"
        "assert Image.MAX_IMAGE_PIXELS is None\n"
        "counter = Counter('a', 'b')\n"
        "assert [s.name for m in counter.collect() for s in m.samples] == ['a_total']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_command_line_sets_the_process_state() -> None:
    code = (
        "import signal, sys, warnings\n"
        "from percept import process\n"
        "process.shorten_switch_interval()\n"
        "process.ignore_pillow_warnings()\n"
        "process.interrupt_on_sigterm()\n"
        "assert abs(sys.getswitchinterval() - process.SWITCH_INTERVAL_S) < 1e-9\n"
        "warnings.warn_explicit('odd EXIF', UserWarning, 'TiffImagePlugin.py', 1, module='PIL.TiffImagePlugin')\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_libraries_are_silenced_while_a_command_works(caplog: pytest.LogCaptureFixture) -> None:
    with process.silence_libraries():
        warnings.warn("old", FutureWarning, stacklevel=1)
        logging.getLogger("torch.export").error("Traceback")
        with pytest.warns(UserWarning, match="of the user"):
            warnings.warn("of the user", stacklevel=1)
    assert not caplog.records
    logging.getLogger("percept").error("served")
    assert [record.message for record in caplog.records] == ["served"]
