"""The bundle contract: the manifest, the integrity of a bundle's files, and its filter pictures.

May import `percept.errors`. It opens no ONNX graph.
"""
