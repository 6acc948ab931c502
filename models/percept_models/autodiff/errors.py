"""The error for an operator that has no derivative here."""

from percept.errors import PerceptError


class UnsupportedOperator(PerceptError):
    """An operator, or a use of it, through which gradients cannot be computed."""

    def __init__(self, operator: str, why: str = "it has no rule") -> None:
        super().__init__(f"no gradients through the operator {operator}: {why}")
        self.operator = operator
