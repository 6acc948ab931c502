"""ONNX files that other tools wrote: read, checked and rewritten as the trunk of a bundle.

May import `percept_models.graph`, `percept_models.autodiff` and `percept_models.sources`.
"""
