"""The names of the built-in bundles that `percept teach` trains, known without torch."""

NAMES = ("cifar10", "clothing")
