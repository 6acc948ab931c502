"""Photos and pictures: decode, geometry and preprocessing; colour maps, overlays, sheets, legends and encoding.

May import `percept.errors`, `percept.process` and `percept.bundle`. Nothing here knows a network or HTTP.
"""
