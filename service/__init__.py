"""The online house: bundles in, REST out. ONNX Runtime, Pillow and NumPy; never torch, onnx or `models`."""
