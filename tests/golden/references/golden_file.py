"""Writes references, and compares two files of them.

    /<id>                    attributes: system, policy (FILE in it is the file itself), source
    /<id>/<budget>           attributes: entries (the budget as the command line takes it, "0": the policy does not look
                             at it), smallest_gap (over all cuts, as a share of the spread)
    /<id>/<budget>/rows      [R] token rows; the first is the prompt's last
    /<id>/<budget>/resident  [R, L, heads, T] uint8, 1 where an entry is resident after the row's attention and cut
    /<id>/<budget>/score     [L, heads, n] scores at the prompt's cut, NaN where protected
    /weights/<network>/...   docs/weights.md
"""
import h5py
import numpy as np


class GoldenFile:
    def __init__(self, path, seed):
        self.file = h5py.File(path, "w", libver=("v110", "v110"))
        self.draw = np.random.RandomState(seed)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def store(self, path, values):
        values = np.asarray(values)
        options = dict(compression="gzip", shuffle=True) if values.size * values.itemsize > 512 else {}
        self.file.create_dataset(path, data=values, **options)

    def add(self, system, policy, source, point):
        """`point`: what a reference answers, see Point."""
        group = self.file.require_group(f"{system}/{point.name}")
        above = self.file[system]
        above.attrs["system"], above.attrs["policy"], above.attrs["source"] = system, policy, source
        group.attrs["entries"] = str(point.entries)
        if np.isfinite(point.gap):
            group.attrs["smallest_gap"] = point.gap
        self.store(f"{group.name}/rows", np.asarray(point.rows, np.int32))
        self.store(f"{group.name}/resident", np.asarray(point.resident, np.uint8))
        if point.score is not None:
            self.store(f"{group.name}/score", np.asarray(point.score, np.float32))


class Point:
    """One system at one budget: sets after the prompt's cut, scores there, sets after every decode row. `entries` is
    the budget as the command line takes it, "0" where the policy does not look at it."""

    def __init__(self, trace, name, entries):
        self.trace, self.name, self.entries = trace, name, entries
        self.score, self.resident, self.rows = None, [], []
        self.gap = np.inf

    def prompt(self, resident, scores=None):
        """Both by (layer, head); scores are rows of the whole prompt, NaN where protected."""
        self.decoded(self.trace.prompt - 1, resident)
        if scores is not None:
            self.score = self.packed(scores)

    def decoded(self, row, resident):
        self.rows.append(row)
        marks = {place: np.isin(np.arange(self.trace.length), entries) for place, entries in resident.items()}
        self.resident.append(self.packed(marks))

    def packed(self, by_place):
        """[L, heads, ...]"""
        heads = max(head for _, head in by_place) + 1
        return np.array([[by_place[layer, head] for head in range(heads)] for layer in self.trace.layers])

    def note_gap(self, kept, dropped):
        """Scores of what competed in a cut: the distance at the cut as a share of the spread."""
        if len(kept) and len(dropped):
            spread = max(np.max(kept), np.max(dropped)) - min(np.min(kept), np.min(dropped))
            if spread > 0:
                self.gap = min(self.gap, (np.min(kept) - np.max(dropped)) / spread)


def differences(stored, made):
    """What two files hold differently: sets exactly, floats to 1e-6 of their largest value."""
    faults = []
    with h5py.File(stored, "r") as first, h5py.File(made, "r") as second:
        names = []
        for file in (first, second):
            found = []
            file.visit(found.append)
            names.append(sorted(found))
        if names[0] != names[1]:
            return [f"{stored}: other groups: {sorted(set(names[0]) ^ set(names[1]))[:5]}"]
        for name in ["/"] + names[0]:
            a, b = first[name], second[name]
            for key in set(a.attrs) | set(b.attrs):
                if key != "smallest_gap" and (key not in a.attrs or key not in b.attrs or a.attrs[key] != b.attrs[key]):
                    faults.append(f"{stored}: {name}: attribute {key}")
            if not isinstance(a, h5py.Dataset):
                continue
            x, y = a[...], b[...]
            if x.dtype != y.dtype or x.shape != y.shape:
                faults.append(f"{stored}: {name}: {x.dtype} {x.shape} instead of {y.dtype} {y.shape}")
            elif x.dtype.kind != "f":
                if not np.array_equal(x, y):
                    faults.append(f"{stored}: {name}")
            elif not np.allclose(x, y, rtol=0, atol=1e-6 * np.nanmax(np.abs(x), initial=1e-30), equal_nan=True):
                faults.append(f"{stored}: {name}: off by {np.nanmax(np.abs(x - y))}")
    return faults
