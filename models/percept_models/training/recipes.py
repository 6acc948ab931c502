"""RECIPES: the recipes of the built-in bundles by name."""

from collections.abc import Mapping

from percept_models.training import cifar10, clothing
from percept_models.training.recipe import Recipe

RECIPES: Mapping[str, Recipe] = {recipe.description.name: recipe for recipe in (cifar10.RECIPE, clothing.RECIPE)}
