"""How the built-in bundles were made: one file each, from a data set to a trained network."""
