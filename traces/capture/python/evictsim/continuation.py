"""A prompt that a transformers model reads once, and rows behind it that it computes again and again, with attention
over part of the entries: what predicted damage is measured and checked with."""

import contextlib
import copy
import functools
import weakref

import torch

from evictsim.attention_functions import own_function, register
from evictsim.model_facts import find_modules, sliding_windows
from evictsim.sink import CaptureError

_ROWS = 64  # rows whose distributions are compared at once

_replaced = weakref.WeakKeyDictionary()  # attention module -> what is called in place of its function


@functools.lru_cache(maxsize=None)
def _register(base):
    """A name for `base` with attention that may be replaced. For a model where none is it is `base`."""

    @torch.compiler.disable
    def attention(module, query, key, value, attention_mask, *args, **kwargs):
        own = functools.partial(own_function(module, base), module)
        replacement = _replaced.get(module)
        if replacement is None:
            return own(query, key, value, attention_mask, *args, **kwargs)
        return replacement(lambda mask: own(query, key, value, mask, *args, **kwargs), query)

    return register("evictsim_replaced_" + base, base, attention)


@contextlib.contextmanager
def replaced_attention(model, replacements):
    """Inside the block, `replacements` {attention module: function} are called in place of the modules' attention:
    function(own, query), where own(mask) is the model's own attention under that mask."""
    base = model.config._attn_implementation
    model.set_attn_implementation(_register(base))
    try:
        _replaced.update(replacements)
        yield
    finally:
        for module in replacements:
            _replaced.pop(module, None)
        model.set_attn_implementation(base)


def token_row(tokens, parameter, device, least):
    """[1, n] token ids."""
    row = torch.as_tensor(tokens, device=device)
    if row.ndim == 2 and row.shape[0] == 1:
        row = row[0]
    if row.ndim != 1 or row.dtype not in (torch.int32, torch.int64) or len(row) < least:
        raise CaptureError(
            f"{parameter}: must be the token ids of one sequence, {least} at least; it is {tuple(row.shape)} of "
            f"{str(row.dtype).removeprefix('torch.')}"
        )
    return row.long()[None]


class Continuation:
    """`prompt` and the `tokens` that follow it, of a model in whatever device and type it is."""

    def __init__(self, model, prompt, tokens, least_prompt=1):
        self.model, self.modules = model, find_modules(model)
        attention = model.config._attn_implementation
        if attention not in ("eager", "sdpa"):
            raise CaptureError(
                f"attention {attention!r} takes no mask per head: load the model with attn_implementation='sdpa' or "
                "'eager'"
            )
        if model.training:
            raise CaptureError("the model is in training mode, in which runs may differ by chance: call model.eval()")
        device = model.get_input_embeddings().weight.device
        self.prompt = token_row(prompt, "prompt", device, least_prompt)
        self.tokens = token_row(tokens, "continuation", device, 1)
        self.length, self.rows = self.prompt.shape[1], self.tokens.shape[1]
        vocabulary = model.config.vocab_size
        for parameter, ids in (("prompt", self.prompt), ("continuation", self.tokens)):
            if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
                raise CaptureError(
                    f"{parameter}: token ids must lie below the vocabulary's {vocabulary}; they go from "
                    f"{int(ids.min())} to {int(ids.max())}"
                )
        most = getattr(model.config, "max_position_embeddings", None)
        if most is not None and self.length + self.rows > most:
            raise CaptureError(
                f"prompt and continuation have {self.length} + {self.rows} tokens; the model's context holds {most}"
            )
        self.windows = sliding_windows(self.modules, model.config)

    def read_prompt(self):
        """The cache behind the prompt."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        with torch.no_grad():
            self.model(self.prompt, past_key_values=cache, use_cache=True)
        return cache

    @functools.cached_property
    def _cache(self):
        return self.read_prompt()

    def logits(self, cache=None):
        """[rows, vocabulary] behind the prompt: of its own cache, which stays as it is, or of `cache`, which grows."""
        cache = copy.deepcopy(self._cache) if cache is None else cache
        with torch.no_grad():
            return self.model(self.tokens, past_key_values=cache, use_cache=True).logits[0]

    def attention_over(self, kept):
        """Attention over `kept`, truth values [heads, 1 or rows, entries] for KV heads or for query heads, as far as a
        row may see it. For replaced_attention, in layers without a window."""
        entries = self.length + self.rows

        def attend(own, query):
            seen = torch.arange(entries) <= torch.arange(self.length, entries)[:, None]
            hidden = ~(kept & seen).to(query.device).repeat_interleave(query.shape[1] // len(kept), dim=0)
            bias = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device)
            return own(bias.masked_fill_(hidden, torch.finfo(query.dtype).min)[None])

        return attend


def compare(full, cut, tokens):
    """Over the rows of two runs' logits [rows, vocabulary]: mean KL(full || cut) in nats; mean change of the negative
    log-likelihood of `tokens` [rows], the rows' own, by the rows before them (NaN for a single row); share of rows
    with the same most probable token."""
    kl, change, agreed = 0.0, 0.0, 0
    following = torch.cat([tokens[1:], tokens[:1]])  # the last row's successor is not known; it is not counted
    for first in range(0, len(full), _ROWS):
        part = slice(first, first + _ROWS)
        p, q = (logits[part].double().log_softmax(-1) for logits in (full, cut))
        kl += float(torch.where(p.isneginf(), 0.0, p.exp() * (p - q)).sum())
        changes = (p - q).gather(-1, following[part, None].to(p.device))[:, 0]
        change += float(changes[: len(full) - 1 - first].sum())
        agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
    rows = len(full)
    return max(kl / rows, 0.0), change / (rows - 1) if rows > 1 else float("nan"), agreed / rows
