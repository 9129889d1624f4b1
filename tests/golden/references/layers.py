"""A layer of a golden trace at a time, heads first, for references of placements."""
import os

import h5py
import numpy as np

from trace import Trace, softmax

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data")


class Layer:
    """k, v [Hkv, T, d], q [Hq, T, d], w_o [D, Hq*d] of one layer."""

    def __init__(self, golden, index, w_o):
        self.trace, self.index, self.w_o = golden, index, w_o
        whole = golden.whole
        self.k, self.v, self.q = (x[index].transpose(1, 0, 2) for x in (whole.k, whole.v, whole.q))
        self.group = whole.group

    def logits(self, head, row):
        """scale * q.k of a query head at a row, over the rows it sees: [row + 1]."""
        return self.trace.scale * self.k[head // self.group, : row + 1] @ self.q[head, row]

    def attention(self, head, row):
        return softmax(self.logits(head, row))


class GoldenTrace:
    """A trace of tests/golden/data: one sequence at positions 0, 1, 2, ..., plain RoPE in halves."""

    def __init__(self, name, folder=DATA):
        path = os.path.join(folder, name + ".h5")
        self.name, self.whole = name, Trace(path)
        self.prompt, self.length, self.scale = self.whole.prompt, self.whole.length, self.whole.scale
        assert self.whole.positions.tolist() == list(range(self.length))
        assert self.whole.rope_layout == "half" and self.whole.rope_scaling == 1 and self.whole.softcap == 0
        with h5py.File(path, "r") as file:
            self.layers = [Layer(self, i, file[f"model/layer_{i:03}/w_o"][...].astype(np.float64))
                           for i in self.whole.layers]

    @property
    def rows(self):
        """The decode rows."""
        return range(self.prompt, self.length)

    def entries(self, budget):
        """Entries per KV head of a budget as the command line takes it: a share, or from 2 on a count."""
        number = float(budget)
        return int(number) if number >= 2 else max(1, int(self.prompt * number))

    def rotate(self, x, positions):
        """RoPE by `positions` (one, or one per row of x); negative ones undo it."""
        angle = np.asarray(positions, dtype=np.float64)[..., None] * self.whole.inv_freq
        half = x.shape[-1] // 2
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], axis=-1)


def relative(difference, whole):
    """|difference| / |whole|, L2."""
    return np.linalg.norm(difference) / np.linalg.norm(whole)


def largest(values, count):
    """Positions of the `count` largest; of equals the earlier. Ascending."""
    return np.sort(np.argsort(-np.asarray(values), kind="stable")[: max(0, count)])
