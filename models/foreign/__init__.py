"""ONNX files of other people: from a file to the trunk of a bundle, mended and proven on the way."""
