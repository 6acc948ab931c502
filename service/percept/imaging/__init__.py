"""Photos and pictures: decode, geometry and preprocessing; colour maps, overlays, sheets, legends and encoding.

May import `percept.errors`, `percept.process` and `percept.bundle`. It knows no network and no HTTP.
"""
