"""Reverse-mode differentiation of ONNX graphs: the table of operator rules and the pass that applies them.

May import `percept_models.graph`.
"""
