"""Classification and segmentation: from logits to a prediction, from a target to a seed; the input image of a model.

May import `percept.runtime` and everything below it.
"""
