"""Export: from a source to a verified bundle.

`convert` is `percept export`; `options`, `source_network`, `layers`, `trunk`, `tails`, `precision`, `weights` are its
parts, and `bundle_writer` puts them into one folder. May import `percept_models.verify` and everything below it.
"""
