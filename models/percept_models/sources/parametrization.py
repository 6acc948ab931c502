"""Weight normalization (Salimans & Kingma 2016) in torch's old form, `torch.nn.utils.weight_norm`.

It computes `weight = g v / ||v||` before every call and keeps it as an attribute that is no parameter, which `deepcopy`
refuses. The new form, `torch.nn.utils.parametrizations`, needs nothing.
"""

from torch import nn
from torch.nn.utils import remove_weight_norm
from torch.nn.utils.weight_norm import WeightNorm


def remove_weight_norms(network: nn.Module) -> None:
    """Make a parameter of every weight that `weight_norm` computes: the network computes the same."""
    for module in network.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
