"""What all query parameters share: the base class, the choice of the model, and the rejection of unused parameters.

A parameter that is unknown, or that would have no effect, is an error. All parameters are validated before the body of
the request is read.
"""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from percept.errors import BadParameter

# Parameter → what it depends on (such as `view`) → the values with which it has an effect.
Rules = Mapping[str, Mapping[str, Sequence[str]]]


class Params(BaseModel):
    """The base of all query parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @property
    def changed(self) -> set[str]:
        """The parameters that are not at their defaults. Forms such as that of `/docs` send the defaults too."""
        fields = type(self).model_fields
        return {name for name in self.model_fields_set if getattr(self, name) != fields[name].get_default()}


class ModelParams(Params):
    """The parameters that choose the model."""

    model: str | None = Field(None, description="name of the model; default: the default model of the service")
    version: int | None = Field(None, description="version of the model; default: the newest")


def reject_inapplicable(params: Params, rules: Rules, **actual: str | None) -> None:
    """Raise `BadParameter` if a parameter was changed that has no effect with the `actual` values, such as the view."""
    if not params.model_fields_set:
        return
    for name in sorted(params.changed & rules.keys()):
        for condition, values in rules[name].items():
            if actual[condition] not in values:
                other = f", not for {condition}={actual[condition]}" if actual[condition] else ""
                raise BadParameter(f"{name} is for {condition}={'|'.join(values)}{other}: it would have no effect here")
