"""What references of learned systems share: activations, random weights, places, cuts row by row."""
import math

import numpy as np

ERF = np.vectorize(math.erf)
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + ERF(x / np.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3))),
}


class Weights:
    """Random weights of one network, written to /weights/<name> as docs/weights.md says, and read back from there."""

    def __init__(self, golden, name, trace, activation=None):
        self.golden, self.group = golden, golden.file.create_group(f"weights/{name}")
        self.layers, self.activation = trace.layers, activation
        if activation:
            self.group.attrs["activation"] = activation

    def draw(self, name, shape, size, mean=0.0, shared=False):
        for place in [""] if shared else [f"layer_{layer:03}/" for layer in self.layers]:
            self.group[place + name] = self.golden.draw.normal(mean, size, shape).astype(np.float32)

    def __call__(self, layer, name):
        own = f"layer_{layer:03}/{name}"
        return self.group[own if own in self.group else name][...].astype(np.float64)

    def act(self, default):
        return ACTIVATIONS[self.activation or default]


def places(trace):
    return [(layer, head) for layer in trace.layers for head in range(trace.heads)]


def whole_prompt(trace):
    return {place: np.arange(trace.prompt) for place in places(trace)}


def masked(row, protected):
    row = row.copy()
    row[list(protected)] = np.nan
    return row


def over_rows(trace, point, cut, scores_of=None, protected=lambda seen: (), decoding=True):
    """`cut(resident, seen)` after the prompt and, while decoding, after every row."""
    seen = trace.prompt
    resident = cut(whole_prompt(trace), seen)
    point.prompt(resident, scores_of and {place: masked(scores_of(place, seen), protected(seen)) for place in resident})
    for row in range(trace.prompt, trace.length if decoding else trace.prompt):
        resident = cut({place: np.append(entries, row) for place, entries in resident.items()}, row + 1)
        point.decoded(row, resident)
    return point
