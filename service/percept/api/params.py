"""What all query parameters share: the base class, the choice of the model, and the rejection of unused parameters.

A parameter that is unknown, or that would have no effect, is an error. All parameters are validated before the body of
the request is read, except where the body is a form, whose fields are parameters too.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import ImmutableMultiDict

from percept.errors import BadParameter, format_validation_errors

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

    def merged(self, fields: ImmutableMultiDict[str, Any]) -> Self:
        """These parameters of the query with those of a form.

        Raises `BadParameter` for a wrong parameter of the form, and for one with another value in the query.
        """
        lists = repeatable_parameters(type(self))
        try:
            form = self.model_validate(
                {name: fields.getlist(name) if name in lists else fields[name] for name in fields}
            )
        except ValidationError as error:
            raise BadParameter(f"the form: {format_validation_errors(error, type(self).model_fields)}") from error
        for name in sorted(form.model_fields_set & self.model_fields_set):
            if getattr(form, name) != getattr(self, name):
                values = f"{getattr(self, name)!r} in the query and {getattr(form, name)!r} in the form"
                raise BadParameter(f"{name} is {values}: give it once")
        return self.model_copy(update={name: getattr(form, name) for name in form.model_fields_set})


class VersionParams(Params):
    """The parameters of a model whose name is in the path."""

    version: int | None = Field(None, description="version of the model; default: the newest")


class ModelParams(Params):
    """The parameters that choose the model."""

    model: str | None = Field(None, description="name of the model; default: the default model of the service")
    version: int | None = Field(None, description="version of the model; default: the newest")


def repeatable_parameters(params: type[BaseModel]) -> frozenset[str]:
    """The parameters that may be given several times."""
    return frozenset(name for name, field in params.model_fields.items() if get_origin(field.annotation) is list)


def reject_inapplicable(params: Params, rules: Rules, **actual: str | None) -> None:
    """Raise `BadParameter` if a parameter was changed that has no effect with the `actual` values, such as the view."""
    for name in sorted(params.changed & rules.keys()):
        for condition, values in rules[name].items():
            if actual[condition] not in values:
                other = f", not for {condition}={actual[condition]}" if actual[condition] else ""
                raise BadParameter(f"{name} is for {condition}={'|'.join(values)}{other}: it would have no effect here")
