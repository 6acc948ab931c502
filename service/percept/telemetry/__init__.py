"""Request context, stage timings, metrics, logs and traces.

May import `percept.errors`, `percept.settings` and `percept.process`.
"""
