"""The command `percept`: finds its subcommands by entry points, and runs `percept serve`.

A subcommand is a function from the arguments after its name to an exit status. The entry points keep the server
independent of the export toolchain, whose commands are loaded only when they run.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from pydantic import ValidationError

from percept import process
from percept.errors import TERMINAL_ESCAPES, PerceptError
from percept.settings import Settings, describe_settings, format_settings_errors, reject_unknown_variables
from percept.telemetry import logs

ENTRY_POINT_GROUP = "percept.commands"
# What each command does. The descriptions stand here because loading a command of the export toolchain imports torch.
COMMANDS = {
    "serve": "serve bundles over HTTP",
    "evaluate": "measure how faithful the heatmaps of a model are, over a folder of photos",
    "export": "convert a network to a bundle",
    "check": "show the classes of photos under the likely preprocessings of a network",
    "verify": "check that a bundle computes the same as its source",
    "layers": "list the layers of a bundle",
    "visualize": "add pictures of the filters to a bundle",
    "teach": "train a built-in bundle from its data set",
}


def main(arguments: list[str] | None = None) -> int:
    """Run `percept COMMAND ...` and return its exit status.

    A `PerceptError` is one line on stderr and status 1; wrong settings are one line each and status 2.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    name = _parser(sorted(points)).parse_args(arguments[:1]).command
    process.ignore_pillow_warnings()
    try:
        command: Callable[[list[str]], int] = points[name].load()
        return command(arguments[1:])
    except PerceptError as error:
        lines, status = [" ".join(TERMINAL_ESCAPES.sub("", str(error)).split())], 1
    except ModuleNotFoundError as error:  # a command imports what it needs when it runs
        extra = "[export]" if points[name].module.startswith("percept_models") else ""
        lines, status = [f"the package {error.name} is not installed: run pip install 'percept-serve{extra}'"], 1
    except ValidationError as error:  # of the settings: an invalid bundle raises `BundleError`
        lines, status = format_settings_errors(error), 2
    for line in lines:
        print(f"percept {name}: {line}", file=sys.stderr)
    return status


def serve(arguments: list[str]) -> int:
    """Run `percept serve`: serve bundles until a signal stops the process."""
    from percept.runtime.repository import require_default  # here, so that no other command imports the server
    from percept.server import uvicorn_server
    from percept.server.app import create_app

    settings = _parse_settings(arguments)
    reject_unknown_variables()
    logs.configure_logging(settings)
    process.shorten_switch_interval()
    if not settings.models.is_dir():
        raise PerceptError(
            f"the folder of bundles {settings.models} does not exist; set --models or PERCEPT_MODELS to one that does"
        )
    if settings.default_model and settings.model_control == "none":
        require_default(settings.models, settings.default_model)
    process.interrupt_on_sigterm()
    # A signal is the normal end of a server: status 0.
    with contextlib.suppress(KeyboardInterrupt), uvicorn_server.bind(settings.host, settings.port) as listener:
        uvicorn_server.run(
            create_app(settings),
            listener,
            settings.deadline_s,
            log_level=settings.log_level,
            log_config=None,  # uvicorn's lines go to the root logger, in the configured format
            access_log=False,
        )
    return 0


def _parser(names: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "percept",
        description="Serve convolutional networks over REST and show what they saw.",
        epilog="commands:\n" + _table({name: COMMANDS.get(name, "") for name in names}),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", choices=names, metavar="COMMAND", help="COMMAND --help lists the options of a command"
    )
    return parser


def _parse_settings(arguments: list[str]) -> Settings:
    """Parse the settings of `percept serve`: options take precedence over the environment."""
    parser = argparse.ArgumentParser(
        "percept serve",
        description="Serve bundles over HTTP. Options take precedence over the environment variables listed below.",
        epilog="environment variables:\n" + _table(describe_settings()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on; 0 chooses a free port")
    parser.add_argument(
        "--models", metavar="FOLDER", help="folder of bundles; default: PERCEPT_MODELS, else the built-in bundles"
    )
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    return Settings(**given)


def _table(rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in rows.items())
