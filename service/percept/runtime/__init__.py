"""ONNX Runtime sessions, the network of one bundle, worker threads, batching, the model repository and the image cache.

May import `percept.imaging` and everything below it. Nothing here knows HTTP or a task.
"""
