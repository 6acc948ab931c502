"""The Open Inference Protocol (version 2, REST) under `/v2`.

May import `percept.api` and everything below it.
"""
