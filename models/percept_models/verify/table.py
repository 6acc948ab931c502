"""Checks as a table of text."""

from collections.abc import Sequence

from percept_models.verify.checks import Check


def format_checks(checks: Sequence[Check]) -> str:
    """Format checks one to a line: `ok` or `FAIL`, name, error, limit, note."""
    width = max(len(check.name) for check in checks)
    return "\n".join(_format_check(check, width) for check in checks)


def _format_check(check: Check, width: int) -> str:
    verdict = "ok  " if check.passed else "FAIL"
    line = f"{verdict}  {check.name:<{width}}  {check.error:8.1e} <= {check.limit:.0e}  {check.note}"
    return line.rstrip()
