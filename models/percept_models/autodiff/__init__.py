"""Reverse-mode differentiation of ONNX graphs: the rules of the operators, the backward pass and the tails.

May import `percept_models.graph`.
"""
