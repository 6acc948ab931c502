"""ONNX graphs: reading, building, running, simplifying and analysing them (receptive fields, stages).

May import `percept.errors`, `percept.bundle` and `percept.runtime`.
"""
