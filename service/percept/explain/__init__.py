"""Class-activation maps: methods, runner, receptive fields, faithfulness, regions and presentation.

May import `percept.tasks` and everything below it. It knows no HTTP.
"""
