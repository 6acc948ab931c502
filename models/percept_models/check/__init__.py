"""`percept check`: what a network says to photos under the likely preprocessings, and doubts about a guessed one.

`normalizations` lists the candidates, `network` runs the part of a trunk behind its normalization, `contrast` measures
whether the logits depend on the photo, `table` and `command` show the classes. May import `percept_models.export` and
everything below it.
"""
