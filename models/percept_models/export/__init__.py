"""From a trunk to a verified bundle: options, layers, tails, precision and weights.

May import `percept_models.verify` and everything below it.
"""
