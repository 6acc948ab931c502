"""Servers in which one function takes a given time, so that tests can tell what happens meanwhile."""

import os
from pathlib import Path

PATCH = '''"""Make one function of Percept slow. Python imports this module at its start."""

import time

from {module} import {owner}

original = {owner}.{function}


def slow(*arguments, **keywords):
    time.sleep({seconds})
    return original(*arguments, **keywords)


{owner}.{function} = slow
'''


def slow_down(folder: Path, seconds: float, module: str, owner: str, function: str) -> dict[str, str]:
    """The environment of a server in which a function of a module or class `owner` sleeps before each call."""
    (folder / "sitecustomize.py").write_text(
        PATCH.format(module=module, owner=owner, function=function, seconds=seconds)
    )
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def slow_encoding(folder: Path, seconds: float) -> dict[str, str]:
    """The environment of a server that takes a time to encode each picture."""
    return slow_down(folder, seconds, "percept.imaging", "encode", "encode")


def slow_network(folder: Path, seconds: float) -> dict[str, str]:
    """The environment of a server whose networks take a time for each pass."""
    return slow_down(folder, seconds, "percept.runtime.network", "Network", "run_trunk")
