"""Training of the built-in bundles (`percept teach`).

`cifar10` and `clothing` are the recipes, `loop` trains a network, `bundles` makes a bundle of it. May import
`percept_models.visualize` and everything below it.
"""
