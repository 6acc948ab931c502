"""One module per endpoint.

May import the other modules of `percept.api` and everything below them.
"""
