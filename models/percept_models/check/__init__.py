"""`percept check`: the classes of photos under the likely preprocessings, and the warning about a wrong guess.

`normalizations` lists the candidates, `network` runs the part of a trunk after its normalization, `contrast` measures
whether the logits depend on the photo, `table` and `command` show the classes. May import `percept_models.export` and
everything below it.
"""
