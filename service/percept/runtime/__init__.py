"""ONNX Runtime sessions, the network of one bundle, worker threads, batching, the model repository and the image cache.

May import `percept.telemetry`, `percept.bundle` and `percept.imaging`. It knows no HTTP and no task.
"""
