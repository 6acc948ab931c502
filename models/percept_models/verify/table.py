"""Checks as lines of text."""

from collections.abc import Sequence

from percept_models.verify.checks import Check


def format_checks(checks: Sequence[Check]) -> str:
    """Format checks one to a line."""
    return "\n".join(map(format_check, checks))


def format_check(check: Check) -> str:
    """The line of a check: `ok` or `FAIL`, error, limit, name, note."""
    verdict = "ok  " if check.passed else "FAIL"
    line = f"{verdict}  {check.error:7.1e} <= {check.limit:5.0e}  {check.name}"
    return f"{line}: {check.note}" if check.note else line
