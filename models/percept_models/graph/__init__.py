"""Reading, analysing and writing ONNX graphs: shapes, receptive fields, stages, simplification.

May import `percept.errors`, `percept.bundle` and `percept.runtime`.
"""
