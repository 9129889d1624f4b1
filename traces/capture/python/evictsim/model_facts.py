"""What a trace says about a transformers model, read from the model itself: geometry, RoPE, norms, windows, weights."""

import math
import sys
from dataclasses import dataclass

import torch

from evictsim.sink import CaptureError


@dataclass
class Modules:
    """The parts of a decoder-only model that a capture looks at."""

    decoder: torch.nn.Module
    layers: list
    attentions: list
    head: object = None  # the output embedding; None for a model without one


def find_modules(model) -> Modules:
    """Raises CaptureError when the model is not built of layers with an attention block and an output projection."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    layers = getattr(decoder, "layers", None)
    if layers is None or not hasattr(decoder, "rotary_emb") or not hasattr(decoder, "norm"):
        raise CaptureError(
            f"{type(model).__name__}: a decoder with layers, rotary_emb and norm is needed, as Llama, "
            "Qwen and Mistral have"
        )
    if getattr(decoder, "config", None) is not model.config:
        raise CaptureError(
            f"{type(model).__name__}: models of several parts, such as text and images, are not recorded"
        )
    attentions = []
    for index, layer in enumerate(layers):
        attention = getattr(layer, "self_attn", None)
        missing = [name for name in ("o_proj", "layer_idx", "head_dim", "scaling") if not hasattr(attention, name)]
        if missing or not hasattr(layer, "input_layernorm"):
            raise CaptureError(
                f"{type(model).__name__}: layer {index} is not recorded: its attention block lacks "
                f"{', '.join(missing) or 'a norm before it'}; recurrent and latent attention cannot be"
            )
        for name in ("sinks", "alibi"):
            if getattr(attention, name, None) is not None:
                raise CaptureError(
                    f"{type(model).__name__}: attention with {name} cannot be given back from q, k and v"
                )
        attentions.append(attention)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return Modules(decoder, list(layers), attentions, head)


def rope_attributes(modules: Modules, config) -> dict:
    """The frequencies really used, and which components are turned together: found by turning a unit vector."""
    rotary, attention = modules.decoder.rotary_emb, modules.attentions[0]
    frequencies = getattr(rotary, "inv_freq", None)
    if frequencies is None or any(not getattr(block, "use_rope", True) for block in modules.attentions):
        raise CaptureError("layers with different RoPE, or without, are not recorded")
    device = frequencies.device
    cos, sin = rotary(torch.zeros(1, 1, 1, device=device), torch.ones(1, 1, dtype=torch.long, device=device))
    turn = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
    width = 2 * frequencies.numel()
    if turn is None or cos.shape[-1] != width:
        raise CaptureError(f"{type(attention).__name__}: its RoPE is not one that a trace describes")
    unit = torch.zeros(1, 1, 1, width, device=device)
    unit[..., 0] = 1
    turned = turn(unit, unit, cos, sin)[0].flatten()
    partners = turned.abs().gt(1e-6).nonzero().flatten().tolist()
    layouts = {width // 2: "half", 1: "interleaved"}
    if len(partners) != 2 or partners[0] != 0 or partners[1] not in layouts:
        raise CaptureError(f"{type(attention).__name__}: its RoPE pairs components as no trace can say")
    theta = getattr(config, "rope_theta", None)
    if theta is None:
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
    if theta is None:
        raise CaptureError("the configuration names no rope_theta")
    return {
        "rope_layout": layouts[partners[1]],
        "rope_theta": float(theta),
        "rope_attention_scaling": float(getattr(rotary, "attention_scaling", 1.0)),
        "rotary_dim": width,
        "inv_freq": frequencies.double().tolist(),
    }


def norm_attributes(norm) -> dict:
    """Which norm this is, found by applying it; empty when it is none that a trace describes."""
    weight = getattr(norm, "weight", None)
    epsilon = next((getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name)), None)
    if weight is None or epsilon is None or getattr(norm, "bias", None) is not None:
        return {}
    probe = torch.linspace(-1, 2, weight.numel(), device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        result = norm(probe[None, None])[0, 0].double()
    probe, scale = probe.double(), weight.detach().double()
    rms = probe / (probe.square().mean() + epsilon).sqrt()
    layer = (probe - probe.mean()) / (probe.var(unbiased=False) + epsilon).sqrt()
    tolerance = 8 * torch.finfo(weight.dtype).eps * result.abs().max()
    for kind, expected in (("rms", rms * scale), ("rms_plus_one", rms * (1 + scale)), ("layer", layer * scale)):
        if (expected - result).abs().max() <= tolerance:
            return {"norm_kind": kind, "norm_epsilon": float(epsilon)}
    return {}


def sliding_windows(modules: Modules, config) -> list:
    """Entries that a query of each layer sees, itself included; 0: all."""
    window = getattr(config, "sliding_window", None) or 0
    types = getattr(config, "layer_types", None)
    if types is None:
        return [getattr(attention, "sliding_window", window) or 0 for attention in modules.attentions]
    windows = {"full_attention": 0, "sliding_attention": window}
    unknown = sorted(set(types) - set(windows))
    if unknown:
        raise CaptureError(f"layers of type {', '.join(unknown)} are not recorded")
    return [windows[kind] for kind in types[: len(modules.layers)]]


def model_name(model) -> str:
    return getattr(model.config, "name_or_path", "") or type(model).__name__


def model_record(model, modules: Modules) -> dict:
    """Attributes for Sink.model."""
    import transformers

    config, attention = model.config, modules.attentions[0]
    scales = {float(block.scaling) for block in modules.attentions}
    if len(scales) > 1:
        raise CaptureError("layers with different attention scales are not recorded")
    heads = config.num_attention_heads
    attributes = {
        "model": model_name(model),
        "engine": "transformers",
        "engine_version": transformers.__version__,
        "num_layers": len(modules.layers),
        "num_query_heads": heads,
        "num_kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": int(attention.head_dim),
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "attention_scale": scales.pop(),
        "logit_softcap": float(getattr(config, "attn_logit_softcapping", None) or 0.0),
        "capture_attention": config._attn_implementation,
        "capture_torch": torch.__version__,
        "capture_dtype": str(attention.o_proj.weight.dtype).removeprefix("torch."),
        **rope_attributes(modules, config),
        **norm_attributes(modules.layers[0].input_layernorm),
    }
    windows = sliding_windows(modules, config)
    if any(windows):
        attributes["sliding_window"] = windows
    return attributes


def weights(modules: Modules, has_norms: bool, unembedding: bool):
    """(array in host memory, name, layer) of every weight that a trace holds, one at a time."""

    def host(tensor):
        return tensor.detach().to("cpu").contiguous()

    for index, (layer, attention) in enumerate(zip(modules.layers, modules.attentions)):
        projection = attention.o_proj.weight
        if projection.dtype in (torch.float32, torch.float16, torch.bfloat16):  # not a packed, quantised one
            yield host(projection), "w_o", index
        if not has_norms:
            continue
        yield host(layer.input_layernorm.weight), "input_norm", index
        if hasattr(layer, "pre_feedforward_layernorm"):
            yield host(layer.post_attention_layernorm.weight), "output_norm", index
    if has_norms:
        yield host(modules.decoder.norm.weight), "final_norm", 0
    if unembedding and modules.head is not None:
        yield host(modules.head.weight), "unembedding", 0


class LogitRule:
    """From the decoder's output to logits, as far as configurations say it: a factor, a divisor, a cap."""

    def __init__(self, head, config):
        self.head = head
        self.factor = float(getattr(config, "logit_scale", None) or 1.0)
        self.factor /= float(getattr(config, "logits_scaling", None) or 1.0)
        self.cap = float(getattr(config, "final_logit_softcapping", None) or math.inf)

    def __call__(self, hidden):
        logits = torch.nn.functional.linear(hidden, self.head.weight, getattr(self.head, "bias", None))
        if self.factor != 1:
            logits = logits * self.factor
        return logits if math.isinf(self.cap) else torch.tanh(logits / self.cap) * self.cap
