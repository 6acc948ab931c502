"""Explanations of one image: class-activation maps, feature maps, receptive fields, faithfulness and hot regions.

May import `percept.tasks` and everything below it. It knows no HTTP.
"""
