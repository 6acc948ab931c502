"""Why a torch network cannot be loaded, run or exported, in one line.

An exception of torch, a library or the user's code comes in; a sentence about its cause and remedy leaves.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

from torch.onnx.errors import OnnxExporterError

from percept.errors import first_line

# A pattern of a message → what it means, with the groups of the pattern.
EXPLANATIONS: Mapping[str, str] = {
    r"No ONNX function found for <OpOverload\(op='([\w.]+)'": (
        "ONNX has no operator for {0}: write this part of the network with other operators"
    ),
    r"Could not guard on data-dependent expression": (
        "its code depends on the values of a tensor, as `if`, `int()` and `.item()` do: compute the same without them"
    ),
    r"(\w+)\.forward\(\) missing \d+ required positional arguments?: (.*)": (
        "{0}.forward needs further inputs ({1}): wrap it in a module that takes images only"
    ),
    r"(mat1 and mat2 shapes cannot be multiplied .*)": "a linear layer needs maps of another size: choose --size ({0})",
    r"(shape '.*' is invalid for input of size \d+)": "its code fixes the number or the size of the images ({0})",
    r"(Input type \(.*\) and (?:bias|weight) type \(.*\) should be the same|must have the same dtype.*)": (
        "its code casts tensors to another type than float32, which its weights have here: remove the cast ({0})"
    ),
    r"Constraints violated|not all values of N": (
        "its code fixes the number of images in a batch: let it take the number from its input"
    ),
}


def explain_failure(error: BaseException) -> str:
    """Say why torch cannot run or export a network: the cause that torch's own message leaves out."""
    while isinstance(error, OnnxExporterError) and error.__cause__:
        error = error.__cause__
    for pattern, explanation in EXPLANATIONS.items():
        if found := re.search(pattern, str(error)):
            return explanation.format(*found.groups())
    return first_line(error)


def explain_import(error: ImportError, module: str) -> str:
    """Say which module is missing: the one that the user named, or one that it imports."""
    if error.name is None or not isinstance(error, ModuleNotFoundError):
        return first_line(error)
    places = f"neither in {Path.cwd()} nor among the installed packages"
    if module == error.name or module.startswith(f"{error.name}."):
        return f"there is no module {error.name}, {places}"
    return f"{module} imports {error.name}, which is {places}"


def explain_loading(error: BaseException) -> str:
    """Say why a library or the user's function cannot make a network."""
    if isinstance(error, URLError):
        return f"they cannot be downloaded ({first_line(error)}): use --weights FILE or --weights none"
    return first_line(error)
