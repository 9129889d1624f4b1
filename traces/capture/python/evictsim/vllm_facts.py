"""What a trace says about a model that vLLM runs, read from its configuration and its modules on one rank."""

import re

import torch

from evictsim.sink import CaptureError
from evictsim.token_texts import token_texts


def layer_index(name: str) -> int:
    """Of an attention layer's name, such as model.layers.12.self_attn.attn."""
    numbers = re.findall(r"(?:^|\.)(\d+)(?=\.|$)", name)
    if len(numbers) != 1:
        raise CaptureError(f"{name!r} does not name one layer")
    return int(numbers[0])


def attention_layers(context: dict) -> list:
    """The attention layers of a static forward context, which holds experts and other layers too, in the order of the
    model. Raises CaptureError for attention that q, k and v do not give back."""
    layers = {}
    for name, module in context.items():
        impl = getattr(module, "impl", None)
        if impl is None or not hasattr(module, "num_kv_heads"):
            continue
        for attribute in ("alibi_slopes", "sinks", "kv_sharing_target_layer_name"):
            if getattr(impl, attribute, None) is not None:
                raise CaptureError(f"{name}: attention with {attribute} is not recorded")
        if getattr(module, "use_mla", False):
            raise CaptureError(f"{name}: latent attention is not recorded")
        if getattr(module, "head_size_v", module.head_size) != module.head_size:
            raise CaptureError(f"{name}: keys and values of different width are not recorded")
        if layers.setdefault(layer_index(name), module) is not module:
            raise CaptureError(f"layer {layer_index(name)} has two attention blocks")
    if not layers or sorted(layers) != list(range(len(layers))):
        raise CaptureError(f"this rank holds layers {sorted(layers)}; with pipeline parallelism nothing is recorded")
    return [layers[index] for index in range(len(layers))]


def sliding_window(impl) -> int:
    """Entries that a query sees, itself included; 0: all. Backends hold a number, or (entries to the left, right)."""
    window = getattr(impl, "sliding_window", None)
    if isinstance(window, (tuple, list)):
        return window[0] + 1 if window[0] >= 0 else 0
    return window if window is not None and window > 0 else 0


def rope_attributes(rotary, head_dim: int) -> dict:
    """From the module's own table of cosines and sines; where its exact frequencies give that table, from these."""
    cosines, sines = rotary.cos_sin_cache[1].detach().double().cpu().chunk(2)
    frequencies, factor = torch.atan2(sines, cosines), float(torch.hypot(sines, cosines).mean())
    for name in ("base", "scaling_factor"):  # what _compute_inv_freq takes differs between kinds of RoPE
        try:
            exact = rotary._compute_inv_freq(getattr(rotary, name)).double().cpu()
        except (AttributeError, TypeError):
            continue
        if exact.shape == frequencies.shape and torch.allclose(exact, frequencies, atol=0.02):
            frequencies = exact
            break
    rotated = 2 * len(frequencies)
    if rotated > head_dim:
        raise CaptureError(f"RoPE turns {rotated} components of heads with {head_dim}")
    return {
        "rope_layout": "half" if rotary.is_neox_style else "interleaved",
        "rope_theta": float(rotary.base),
        "rope_attention_scaling": round(factor, 3) if abs(factor - 1) > 5e-3 else 1.0,
        "rotary_dim": rotated,
        "inv_freq": frequencies.tolist(),
    }


def norm_attributes(norm) -> dict:
    kinds = {"RMSNorm": "rms", "GemmaRMSNorm": "rms_plus_one"}
    kind, epsilon = kinds.get(type(norm).__name__), getattr(norm, "variance_epsilon", None)
    return {} if kind is None or epsilon is None else {"norm_kind": kind, "norm_epsilon": float(epsilon)}


def head_range(rank: int, ranks: int, query_heads: int, kv_heads: int) -> dict:
    """Which heads of the model a tensor-parallel rank holds; KV heads are repeated where there are more ranks."""
    if query_heads % ranks != 0 or max(kv_heads, ranks) % min(kv_heads, ranks) != 0:
        raise CaptureError(f"{query_heads} query heads and {kv_heads} KV heads cannot be split over {ranks} ranks")
    first_kv = rank * kv_heads // ranks
    return {
        "capture_first_query_head": rank * query_heads // ranks,
        "capture_first_kv_head": first_kv,
        "capture_all_query_heads": query_heads,
        "capture_all_kv_heads": kv_heads,
    }


def decoder_layers(model):
    """The decoder's layers, wherever a model keeps them."""
    for path in ("model.layers", "language_model.model.layers", "transformer.layers"):
        try:
            return list(model.get_submodule(path))
        except AttributeError:
            continue
    raise CaptureError(f"{type(model).__name__}: the layers of the decoder were not found")


def model_record(vllm_config, model, rank: int, ranks: int, version: str):
    """Attributes for Sink.model, and the decoder's layers."""
    config = vllm_config.model_config.hf_text_config
    attentions = attention_layers(vllm_config.compilation_config.static_forward_context)
    layers = decoder_layers(model)
    first = attentions[0]
    for attention in attentions:
        if (attention.num_heads, attention.num_kv_heads, attention.head_size, attention.impl.scale) != (
            first.num_heads,
            first.num_kv_heads,
            first.head_size,
            first.impl.scale,
        ):
            raise CaptureError("layers with different heads or scales are not recorded")
    if len(layers) != len(attentions):
        raise CaptureError(
            f"{len(layers)} layers have {len(attentions)} attention blocks; recurrent layers have no keys "
            "and values of tokens"
        )
    rotary = getattr(layers[0].self_attn, "rotary_emb", None)
    heads = config.num_attention_heads
    attributes = {
        "model": vllm_config.model_config.model,
        "engine": "vllm",
        "engine_version": version,
        "num_layers": len(layers),
        "num_query_heads": first.num_heads,
        "num_kv_heads": first.num_kv_heads,
        "head_dim": first.head_size,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "attention_scale": float(first.impl.scale),
        "logit_softcap": float(getattr(first.impl, "logits_soft_cap", None) or 0.0),
        **(rope_attributes(rotary, first.head_size) if rotary is not None else {"rope_layout": "none"}),
        **norm_attributes(layers[0].input_layernorm),
        **head_range(rank, ranks, heads, getattr(config, "num_key_value_heads", None) or heads),
    }
    windows = [sliding_window(attention.impl) for attention in attentions]
    if any(windows):
        attributes["sliding_window"] = windows
    return attributes, layers


def texts_of_tokens(model_config, vocabulary: int) -> list:
    """By the tokenizer that the server was given."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_config.tokenizer,
            revision=model_config.tokenizer_revision,
            trust_remote_code=model_config.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise CaptureError(f"no tokenizer for store_text=1: {error}") from error
    return token_texts(tokenizer, vocabulary)


def weights(layers, has_norms: bool):
    """(array in host memory, name, layer): this rank's columns of W_O, and the norms before attention."""
    for index, layer in enumerate(layers):
        projection = getattr(layer.self_attn, "o_proj", None)
        weight = getattr(projection, "weight", None)
        # Quantised ones have other types, and the CPU backend puts another form of the weight in its place.
        if weight is not None and weight.ndim == 2 and weight.dtype in (torch.float32, torch.float16, torch.bfloat16):
            yield weight.detach().cpu().contiguous(), "w_o", index
        if has_norms:
            yield layer.input_layernorm.weight.detach().cpu().contiguous(), "input_norm", index
        if has_norms and hasattr(layer, "pre_feedforward_layernorm"):
            yield layer.post_attention_layernorm.weight.detach().cpu().contiguous(), "output_norm", index
