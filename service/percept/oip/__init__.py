"""The Open Inference Protocol (version 2, REST) under `/v2`: routes, codec of tensors, inference and metadata.

May import `percept.api` and everything below it.
"""
