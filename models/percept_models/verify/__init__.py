"""Verification: a bundle compared with the network that it was exported from.

`bundle` runs every check; `torch_network`, `reference_outputs`, `finite_differences` and `cuda` hold one comparison
each, `checks` what they share. May import `percept_models.sources`, `percept_models.importer` and everything below.
"""
