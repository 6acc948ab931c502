"""The offline house: trained networks in, bundles out. torch and onnx live here and nowhere else."""
