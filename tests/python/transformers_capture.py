"""Captures of tiny models in every way that a server calls them. Used by transformers_capture_test.cpp.

    transformers_capture.py FOLDER      per case: FOLDER/CASE/trace, the capture; FOLDER/CASE/own.h5, per request and
                                        layer the model's own attention output behind W_O [T, D], float32

Checks that nothing the model returns differs from a run without capture.
"""

import shutil
import sys
from pathlib import Path

import h5py
import torch
from transformers import DynamicCache

import evictsim
import tiny_models


def generate(model, ids, mask, **options):
    result = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=12,
        min_new_tokens=12,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return [result.sequences, *result.logits]


def in_calls(model, ids, mask, pieces):
    """A right-padded prompt in `pieces` calls of the model, then eight steps: a server's own loop."""
    cache, results = DynamicCache(config=model.config), []
    starts = torch.linspace(0, ids.shape[1], pieces + 1).long().tolist()
    for first, last in zip(starts, starts[1:]):
        positions = mask[:, :last].cumsum(-1)[:, first:] - 1
        results.append(
            model(
                ids[:, first:last],
                attention_mask=mask[:, :last],
                position_ids=positions.clamp(min=0),
                past_key_values=cache,
            ).logits
        )
    for _ in range(8):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        token = results[-1][:, -1:].argmax(-1)
        results.append(
            model(token, attention_mask=mask, position_ids=mask.sum(-1, keepdim=True) - 1, past_key_values=cache).logits
        )
    return results


def without_cache(model, ids, mask):
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return [model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits]


def base_model_only(model, ids, mask):
    return [model.model(ids, attention_mask=mask).last_hidden_state]


CASES = {
    # name: (family, attention, padding, batch, prompt, what is run)
    "llama_left": ("llama", "sdpa", "left", 3, 21, generate),
    "llama_eager": ("llama", "eager", "left", 2, 21, generate),
    "llama_static": ("llama", "sdpa", "left", 2, 21, lambda *a: generate(*a, cache_implementation="static")),
    "llama_chunks": ("llama", "sdpa", "left", 2, 23, lambda *a: generate(*a, prefill_chunk_size=6)),
    "llama_right": ("llama", "sdpa", "right", 3, 17, lambda *a: in_calls(*a, 1)),
    "llama_one": ("llama", "sdpa", "right", 1, 19, lambda *a: in_calls(*a, 3)),
    "llama_base": ("llama", "sdpa", "right", 2, 11, base_model_only),
    "qwen3_left": ("qwen3", "sdpa", "left", 2, 21, generate),
    "qwen3_no_cache": ("qwen3", "sdpa", "left", 2, 21, without_cache),
    "mistral_left": ("mistral", "sdpa", "left", 2, 31, generate),
    "mistral_static": ("mistral", "sdpa", "left", 2, 31, lambda *a: generate(*a, cache_implementation="static")),
    "mistral_chunks": ("mistral", "sdpa", "left", 2, 31, lambda *a: generate(*a, prefill_chunk_size=7)),
    "mistral_short": ("mistral", "sdpa", "left", 1, 4, lambda *a: generate(*a, cache_implementation="static")),
    "gemma2_left": ("gemma2", "eager", "left", 2, 31, generate),
}


def own_rows(outputs, mask):
    """[T, D] of every sequence and layer: padding left out, behind the prompt every row is a token."""
    rows = torch.cat(outputs, dim=1)
    behind = torch.ones(mask.shape[0], rows.shape[1] - mask.shape[1], dtype=mask.dtype)
    real = torch.cat([mask, behind], dim=1).bool()
    return [rows[index][real[index]] for index in range(len(rows))]


def run(name, folder):
    family, attention, padding, batch, length, call = CASES[name]
    model = tiny_models.make(family)
    model.set_attn_implementation(attention)
    ids, mask = tiny_models.prompts(batch, length, padding)
    with torch.no_grad():
        expected = call(model, ids, mask)
        with evictsim.capture(model, folder / "trace", dtype="float32", x=True) as capture:
            capture.next_requests(
                [f"{name}-{index}" for index in range(batch)],
                prompt_lengths=mask.sum(-1).tolist() if name == "llama_one" else None,
            )
            with tiny_models.attention_outputs(model) as outputs:
                found = call(model, ids, mask)
        again = call(model, ids, mask)
    for before, during, after in zip(expected, found, again):
        assert torch.equal(before, during) and torch.equal(before, after), name
    assert len(expected) == len(found) > 0
    counters = capture.counters
    assert counters["dropped_rows"] == 0 and counters["requests"] == batch, counters
    with h5py.File(folder / "own.h5", "w") as file:
        for layer, pieces in enumerate(outputs):
            for index, rows in enumerate(own_rows(pieces, mask)):
                file[f"{name}-{index}/layer_{layer:03}"] = rows.numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in CASES:
        folder = Path(sys.argv[1]) / case
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run(case, folder)
