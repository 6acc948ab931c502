"""The command `percept evaluate`: how well each method explains a model, measured over a folder of photos.

May import `percept.explain` and everything below it.
"""
