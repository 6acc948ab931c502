"""ONNX files from other exporters: read, checked and converted to the trunk of a bundle.

May import `percept_models.graph`, `percept_models.autodiff` and `percept_models.sources`.
"""
