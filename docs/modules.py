"""`python docs/modules.py`: write the list of all modules into `docs/architecture.md`.

The text of a module is the first sentence of its docstring. `tests/test_docs.py` compares the page with the tree.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = {"percept": ROOT / "service" / "percept", "percept_models": ROOT / "models" / "percept_models"}


def summary(file: Path) -> str:
    """The first sentence of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s(?=[A-Z`])", paragraph)[0].removesuffix(".")


def rows(folder: Path) -> Iterator[str]:
    """A row of a table for each module below a folder, a package before its modules."""
    for file in sorted(
        folder.rglob("*.py"), key=lambda file: (file.parent.parts, file.name != "__init__.py", file.name)
    ):
        path = file.relative_to(folder.parent)
        text = summary(file).replace("|", "\\|")
        yield f"| **`{path.parent}/`** | {text} |" if file.name == "__init__.py" else f"| `{path}` | {text} |"


def table(package: str) -> str:
    """The modules of a package as a Markdown table."""
    return "\n".join(["| module | |", "|---|---|", *rows(PACKAGES[package])])


def with_modules(page: str) -> str:
    """A page with the tables of all packages between their markers."""
    for package in PACKAGES:
        begin, end = f"<!-- modules of {package} -->\n", f"<!-- end of {package} -->"
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{table(package)}\n\n{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_modules(PAGE.read_text()))
