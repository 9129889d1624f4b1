"""A recorded trace in float64, and what every reference computes from it: attention, keys before RoPE, what enters the
attention block. Format: docs/trace-format.md. Nothing here is shared with the library.
"""
import h5py
import numpy as np


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


class Trace:
    """The first sequence of a trace file."""

    def __init__(self, path):
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            sequence = file["sequences/000000"]
            self.layers = [int(layer) for layer in file["model/layers"]]
            self.prompt, self.length = int(sequence.attrs["prompt_length"]), int(sequence.attrs["length"])
            self.positions = sequence["positions"][...].astype(np.float64)
            self.inv_freq = file["model/inv_freq"][...].astype(np.float64)
            for name in ("step_norm", "cos_final", "entropy", "entropy_top"):
                setattr(self, name, sequence[name][...].astype(np.float64) if name in sequence else None)
            self.k, self.v, self.q, self.x, self.input_norm = {}, {}, {}, {}, {}
            for layer in self.layers:
                tensors = sequence[f"layer_{layer:03}"]
                for name in "kvqx":
                    if name in tensors:
                        getattr(self, name)[layer] = tensors[name][...].astype(np.float64)
                model = file.get(f"model/layer_{layer:03}")
                if model is not None and "input_norm" in model:
                    self.input_norm[layer] = model["input_norm"][...].astype(np.float64)
        self.query_heads, self.heads = int(attributes["num_query_heads"]), int(attributes["num_kv_heads"])
        self.group, self.width = self.query_heads // self.heads, int(attributes["head_dim"])
        self.num_layers = int(attributes["num_layers"])
        self.scale, self.softcap = float(attributes["attention_scale"]), float(attributes["logit_softcap"])
        self.rope_layout, self.rope_scaling = attributes["rope_layout"], float(attributes["rope_attention_scaling"])
        self.rotary = int(attributes.get("rotary_dim", self.width))
        self.norm_epsilon = float(attributes.get("norm_epsilon", 1e-6))
        self.norm_kind = attributes.get("norm_kind", "rms")

    def attention(self, layer, row, query_head, entries):
        """Softmax of one query over `entries` (token rows up to its own)."""
        logits = self.k[layer][entries, query_head // self.group] @ self.q[layer][row, query_head] * self.scale
        if self.softcap > 0:
            logits = self.softcap * np.tanh(logits / self.softcap)
        return softmax(logits)

    def turned(self, vectors, positions):
        """Rotates [T, heads, d] by `positions`, one for all or one per row."""
        angle = np.broadcast_to(positions, vectors.shape[:1])[:, None] * self.inv_freq
        cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        half = self.rotary // 2
        if self.rope_layout == "half":
            first, second = np.arange(half), np.arange(half) + half
        else:
            first, second = 2 * np.arange(half), 2 * np.arange(half) + 1
        result = vectors.copy()
        a, b = vectors[..., first], vectors[..., second]
        result[..., first] = a * cos - b * sin
        result[..., second] = a * sin + b * cos
        return result

    def before_rope(self, vectors):
        """Rotates [T, heads, d] back by the positions."""
        result = self.turned(vectors, -self.positions)
        result[..., : self.rotary] /= self.rope_scaling
        return result

    def attention_input(self, layer):
        """z [T, D]: the residual stream behind the layer's input norm."""
        x, weight = self.x[layer], self.input_norm[layer]
        if self.norm_kind == "layer":
            x = x - x.mean(axis=-1, keepdims=True)
        if self.norm_kind == "rms_plus_one":
            weight = weight + 1
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.norm_epsilon) * weight
