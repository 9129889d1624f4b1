"""Functions in place of a model's own attention, registered by name with transformers."""

import sys

from evictsim.sink import CaptureError


def own_function(module, base):
    """The attention function that the model would use without us."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if base == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[base]


def register(name, base, attention):
    """Makes `attention` a choice for `model.set_attn_implementation`, with the mask function of `base`: a name without
    one would lose the causal mask. It stays registered. Returns `name`."""
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    if base not in ALL_MASK_ATTENTION_FUNCTIONS:
        raise CaptureError(f"attention {base!r} has no mask function; switch to 'sdpa' or 'eager' for the capture")
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name
