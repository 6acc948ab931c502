"""The JSON that endpoints answer with.

May import `percept.pipeline` and everything below it.
"""
