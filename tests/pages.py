"""The pages of the documentation and of `deploy/`: their texts, sections and fenced blocks."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
DEPLOYMENT = sorted((ROOT / "deploy").glob("*.md"))
BLOCK = re.compile(
    r"(?:^<!-- (?P<marker>.*?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A fenced block of a page, and the comment above it."""

    page: Path
    marker: str
    language: str
    code: str


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    for found in BLOCK.finditer(page.read_text()):
        yield Block(page, found["marker"] or "", found["language"], found["code"])


def text(name: str) -> str:
    """A page of `docs/`."""
    return (ROOT / "docs" / f"{name}.md").read_text()


def section(page: str, heading: str) -> str:
    """The part of a page of `docs/` below a heading of the second level."""
    return text(page).split(f"\n## {heading}\n")[1].split("\n## ")[0]


def quoted(markdown: str) -> str:
    """All that stands between backticks."""
    return " ".join(re.findall(r"`([^`\n]+)`", markdown))


def name(page: Path) -> str:
    """A page as pytest shows it."""
    return str(page.relative_to(ROOT))
