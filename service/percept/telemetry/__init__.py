"""Request context, stage timings, metrics, logs and traces.

May import `percept.errors` and `percept.settings`.
"""
