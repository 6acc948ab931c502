"""The explanation methods: the table, the methods that need several passes, and the runner that executes their passes.

Methods of one formula, such as Grad-CAM++, are functions of `percept.explain.maps`; the table names all of them.

May import `percept.explain.maps`, `percept.tasks` and everything below it.
"""
