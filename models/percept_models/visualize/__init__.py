"""Feature visualization (`percept visualize`): activation maximization and feature inversion.

`layer_response` holds the objectives, `parameterization` and `regularization` the images, `optimization` both methods;
`pictures` draws their results, `command` adds them to a bundle. May import `percept_models.export` and all below it.
"""
