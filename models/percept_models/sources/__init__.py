"""Torch networks: from torchvision, timm, segmentation_models_pytorch or a user's module to a traced trunk.

May import `percept_models.graph` and `percept_models.autodiff`.
"""
