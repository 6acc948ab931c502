"""Decoding, geometry and preprocessing of photos; encoding, colour maps and drawing of pictures.

May import `percept.errors` and `percept.bundle`. It knows no network and no HTTP.
"""
