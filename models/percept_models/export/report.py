"""The lines that `percept export` and `percept visualize` print while they work."""

from collections.abc import Callable
from time import perf_counter

Report = Callable[[str], None]


def timed_report() -> Report:
    """A report that prints each line after the seconds since this call."""
    start = perf_counter()

    def report(line: str) -> None:
        seconds = perf_counter() - start
        print("\n".join(f"{seconds:6.1f} s  {part}" for part in line.splitlines()), flush=True)

    return report


def format_line(subject: str, value: str, guessed: str | None = None) -> str:
    """A line `subject value`; `guessed` names the options that replace a value that was guessed."""
    return f"{subject:<14} {value}" + (f"  (guessed: {guessed})" if guessed else "")
