"""The recipes that train the built-in networks.

May import `percept_models.export`, `percept_models.visualize` and everything below them.
"""
