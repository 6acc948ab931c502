"""The export toolchain: trained networks in, bundles out. torch and onnx are used here and nowhere else."""
