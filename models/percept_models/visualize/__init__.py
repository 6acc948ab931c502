"""Feature visualization (`percept visualize`): activation maximization and feature inversion.

`layer_response` holds the objectives, `parameterization` and `regularization` the images, `optimization` both methods,
`pictures` and `command` what becomes of them in a bundle. May import `percept_models.export` and everything below it.
"""
