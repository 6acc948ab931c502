"""The command `percept`: finds its subcommands by entry points, so that neither house names the other.

A subcommand is a function that takes the arguments after its name and returns the exit status.
"""

import argparse
import contextlib
import signal
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from pydantic import ValidationError

from percept.errors import PerceptError
from percept.server import uvicorn_server
from percept.server.app import create_app
from percept.settings import Settings
from percept.telemetry import logs

GROUP = "percept.commands"
# A thread that comes back from decoding or from a network waits at most so long for the interpreter, and its core with
# it. Python's own 5 ms are longer than the event loop is ever busy (SqueezeNet on 2 cores: 1.06 times the images).
SWITCH_S = 1e-4


def main(arguments: list[str] | None = None) -> int:
    """Run `percept COMMAND …`; an error of Percept's own is one line on stderr and status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {point.name: point for point in entry_points(group=GROUP)}
    parser = argparse.ArgumentParser("percept", description="Serves convolutional networks and shows what they saw.")
    parser.add_argument("command", choices=sorted(commands), help="what to do; COMMAND --help says more")
    chosen = parser.parse_args(arguments[:1]).command
    # What Pillow finds odd in somebody's file is no news for the operator.
    warnings.filterwarnings("ignore", module=r"PIL\b")
    try:
        return _load(commands[chosen])(arguments[1:])
    except PerceptError as error:
        print(f"percept {chosen}: {error}", file=sys.stderr)
        return 1
    except ValidationError as error:  # of the settings: bundles raise errors of their own
        for fault in error.errors():
            print(f"percept {chosen}: {fault['loc'][0]}: {fault['msg']}", file=sys.stderr)
        return 2


def serve(arguments: list[str]) -> int:
    """`percept serve`: run the service until it is told to stop."""
    parser = argparse.ArgumentParser(
        "percept serve",
        description="Serve bundles over HTTP. Every setting is an environment variable PERCEPT_<NAME>.",
        epilog="settings: " + ", ".join(Settings.model_fields),
    )
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--models", help="folder of bundles")
    given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if v is not None}
    settings = Settings(**given)
    logs.configure(settings)
    sys.setswitchinterval(SWITCH_S)
    if not settings.models.is_dir():
        raise PerceptError(f"there is no folder {settings.models} (PERCEPT_MODELS)")
    # To be told to stop is no failure, and the first process of a container heeds no signal that it has no handler for.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), uvicorn_server.bind(settings.host, settings.port) as listener:
        uvicorn_server.run(
            create_app(settings),
            listener,
            settings.deadline_s,
            log_level=settings.log_level,
            log_config=None,  # its lines go where ours go, as ours do
            access_log=False,
        )
    return 0


def _load(point: EntryPoint) -> Callable[[list[str]], int]:
    """The function behind an entry point; says what to install where its house is not there."""
    try:
        command: Callable[[list[str]], int] = point.load()
    except ModuleNotFoundError as error:
        raise PerceptError(
            f"needs {error.name}, which is not installed: pip install 'percept-serve[export]'"
        ) from error
    return command
