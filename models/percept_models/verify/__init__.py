"""A bundle compared with the network that it was made from.

May import `percept_models.sources` and everything below it.
"""
