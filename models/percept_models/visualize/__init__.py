"""The command `percept visualize`: activation maximisation and feature inversion.

May import `percept_models.export` and everything below it.
"""
