"""Which rows of a batched forward step are tokens of which request: padding, positions, chunks, caches."""

import weakref
from dataclasses import dataclass, field

import torch

from evictsim.sink import CaptureError, Rows


def real_tokens(mask, before: int, batch: int, count: int):
    """[batch, count] truth values: which of a step's rows are tokens and not padding. `mask` is what the model is
    given: none, [batch, entries], or one that is ready for attention, [batch, 1, count, entries], also by layer type.
    A token sees itself, padding is seen by nobody, so the diagonal of a ready mask tells."""
    if isinstance(mask, dict):
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if mask is None:
        return torch.ones(batch, count, dtype=torch.bool)
    if not isinstance(mask, torch.Tensor) or mask.ndim not in (2, 4):
        raise CaptureError(f"an attention mask of type {type(mask).__name__} cannot be read")
    # A sliding cache that is full ends with the step's rows; any other holds them behind those before.
    first = min(before, mask.shape[-1] - count)
    if first < 0:
        raise CaptureError(f"the attention mask has {mask.shape[-1]} entries, the step {count} rows")
    if mask.ndim == 2:
        real = mask[:, first : first + count] != 0
    else:
        diagonal = torch.diagonal(mask[:, 0, :, first : first + count], dim1=-2, dim2=-1)
        real = diagonal if diagonal.dtype == torch.bool else diagonal == 0
    return real.expand(batch, count).cpu()


def new_entries(cached, before: int, count: int):
    """The last step's rows of keys or values [batch, heads, entries, width], whatever the cache: behind those before,
    or at the end of a window."""
    first = min(before, cached.shape[2] - count)
    return cached[:, :, first : first + count]


@dataclass
class Batch:
    """Sequences that are computed together, each a request."""

    names: list
    prompt_lengths: list  # per sequence; None: the rows of its first step
    entries: int = 0  # slots of the cache that are in use, padding included
    lengths: list = field(default_factory=list)
    ended: list = field(default_factory=list)

    def __post_init__(self):
        self.lengths = [0] * len(self.names)
        self.ended = [False] * len(self.names)

    def rows(self, real, token_ids, positions, end_tokens):
        """The step's rows of every sequence, and the names of those that have ended. `token_ids` [batch, count] lists;
        `positions` likewise, or None where the model counts entries itself."""
        rows, ended = [], []
        count = real.shape[1]
        for index, name in enumerate(self.names):
            places = real[index].nonzero().flatten().tolist()
            if self.ended[index] or not places:
                continue
            first, tokens = places[0], [token_ids[index][place] for place in places]
            if places != list(range(first, first + len(places))):
                raise CaptureError(f"request {name}: padding between tokens of one step is not recorded")
            # A batch goes on until its last sequence ends; what the others are fed until then is no part of them.
            if count == 1 and len(self.names) > 1 and self.lengths[index] > 0 and tokens[0] in end_tokens:
                self.ended[index] = True
                ended.append(name)
                continue
            expected = self.lengths[index]
            given = positions[index][first] if positions is not None else self.entries + first
            last = positions[index][places[-1]] if positions is not None else given + len(places) - 1
            if (given, last) != (expected, expected + len(places) - 1):
                raise CaptureError(
                    f"request {name}: its tokens stand at positions {given} to {last}, and {expected} to "
                    f"{expected + len(places) - 1} is what follows. Positions count a request's own tokens from 0: "
                    "with padding on the left give position_ids, as generate does"
                )
            rows.append(Rows(name, index * count + first, expected, tokens, self.prompt_lengths[index] or 0))
            self.lengths[index] += len(places)
        self.entries += count
        return rows, ended


class Batches:
    """The batches under way, by their cache. A forward step that neither gets nor makes one is a batch of its own."""

    def __init__(self):
        self._batches = {}  # by the cache's address: (weak reference to it, batch)
        self._numbers = 0
        self._named = None

    def name_next(self, names, prompt_lengths):
        self._named = (list(names), prompt_lengths)

    def _new(self, size, prompt_lengths):
        names, given = self._named or (None, None)
        self._named = None
        if names is None:
            names = [f"request-{self._numbers + index:06}" for index in range(size)]
        if len(names) != size or len(set(names)) != size:
            raise CaptureError(f"{len(set(names))} different names were given for a batch of {size} requests")
        self._numbers += size
        return Batch(names, list(given or prompt_lengths or [None] * size))

    def find(self, cache, entries: int, size: int, prompt_lengths):
        """The batch that a step with `entries` entries in its cache goes on with, and names of requests that are
        over."""
        over = [name for key in list(self._batches) if self._batches[key][0]() is None for name in self._end(key)]
        if cache is None:
            return self._new(size, prompt_lengths), over
        key = id(cache)
        if entries == 0:  # a new cache, or one that was emptied
            over += self._end(key)
            self._batches[key] = (weakref.ref(cache), self._new(size, prompt_lengths))
        elif key not in self._batches:
            raise CaptureError(f"{entries} entries of the cache were computed before the capture began; begin it first")
        batch = self._batches[key][1]
        if batch.entries != entries or len(batch.names) != size:
            raise CaptureError(
                f"the cache has {entries} entries of {size} sequences, recorded were {batch.entries} of "
                f"{len(batch.names)}: a cache that is cut back, as in assisted decoding, or reordered, as "
                "in beam search, is not recorded"
            )
        return batch, over

    def adopt(self, cache, batch: Batch):
        """A batch that began without a cache goes on with this one."""
        self._batches[id(cache)] = (weakref.ref(cache), batch)

    def _end(self, key):
        _, batch = self._batches.pop(key, (None, None))
        return [] if batch is None else [name for name, ended in zip(batch.names, batch.ended) if not ended]

    def end_all(self):
        """The names of all requests under way."""
        return [name for key in list(self._batches) for name in self._end(key)]
