"""Tiny random models of the families that the transformers adapter is tested with, what they compute themselves, and
tokenizers."""

import contextlib

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

END, PADDING = 2, 0
GEOMETRY = dict(
    vocab_size=640,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=512,
    bos_token_id=1,
    eos_token_id=END,
    pad_token_id=PADDING,
)
WINDOW = 9

FAMILIES = {
    "llama": (
        transformers.LlamaConfig,
        transformers.LlamaForCausalLM,
        dict(
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=5000.0,
                factor=4.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            )
        ),
    ),
    "qwen3": (
        transformers.Qwen3Config,
        transformers.Qwen3ForCausalLM,
        dict(num_attention_heads=6, num_key_value_heads=3),
    ),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, dict(sliding_window=WINDOW)),
    # A cap on logits, a norm behind W_O, windows in every second layer, weight + 1 in its norms.
    "gemma2": (
        transformers.Gemma2Config,
        transformers.Gemma2ForCausalLM,
        dict(sliding_window=WINDOW, query_pre_attn_scalar=11, attn_logit_softcapping=3.0, final_logit_softcapping=4.0),
    ),
}


def make(family, seed=0, **geometry):
    config, model, changes = FAMILIES[family]
    torch.manual_seed(seed)
    model = model(config(**{**GEOMETRY, **changes, **geometry})).eval()
    with torch.no_grad():  # attention that differs between tokens, and norms that are not all ones
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "proj" in name:
                parameter.mul_(8)
    return model


def prompts(batch, length, padding_side, seed=1):
    """Token ids and mask [batch, length]; every second prompt is padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, GEOMETRY["vocab_size"], (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for index in range(1, batch, 2):
        padded = slice(0, 5) if padding_side == "left" else slice(length - 5, length)
        mask[index, padded] = 0
        ids[index, padded] = PADDING
    return ids, mask


def byte_level_tokenizer():
    """A token for each byte, written as GPT-2's vocabulary writes it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: place for place, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def byte_fallback_tokenizer():
    """Some letters, and bytes for the rest, written as SentencePiece writes them."""
    pieces = ["<unk>", "\u2581", "n", "a", "v", "e", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


@contextlib.contextmanager
def attention_outputs(model):
    """The model's own attention output behind W_O, per layer one [batch, rows, D] per call."""
    outputs = [[] for _ in model.model.layers]
    handles = [
        layer.self_attn.register_forward_hook(
            lambda module, args, output, place=place: place.append(output[0].detach().clone())
        )
        for layer, place in zip(model.model.layers, outputs)
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
