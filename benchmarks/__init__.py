"""Measurements: each module is a command that prints one table. `harness` holds what they share, `peers` the servers
that Percept is compared with.
"""
