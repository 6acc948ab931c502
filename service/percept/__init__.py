"""Percept's server: convolutional networks over REST, with feature maps and class-activation heatmaps.

It needs ONNX Runtime and never imports torch, onnx or `percept_models`.
"""

from importlib.metadata import version

__version__ = version("percept-serve")
