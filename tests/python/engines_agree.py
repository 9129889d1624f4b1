"""Do llama.cpp and transformers measure the same damage in the same model? Used by engines_agree_test.cpp.

engines_agree.py MODEL.gguf     in a folder of its own
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import torch
from transformers import AutoModelForCausalLM

import evictsim

PROMPT, ROWS, LENGTH = 120, 10, 100
POLICIES = [
    "knorm",
    "snapkv(window=8)",
    "adakv(snapkv(window=8))",
    "streaming_llm",
    "tova",
    "h2o",
    "rkv(window=4,every=4)",
    "squeezeattention",
    "duoattention(sinks=4,recent=16)",
    "kv_compress(block=4,window=8,protected=8)",
    "trimkv(gate=rg,weights=gates.h5,every=1)",
    "dbtrimkv(gate=rg,weights=gates.h5)",
]


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_tokens(name, tokens):
    Path(name).write_text(" ".join(map(str, tokens)) + "\n")
    return name


def llama(*arguments):
    subprocess.run(["evictsim-capture", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def write_gates(name, model):
    """Random networks that look at what enters each layer."""
    config, generator, width = model.config, np.random.default_rng(3), 8
    shapes = {
        "linear1.weight": (width, config.hidden_size),
        "linear1.bias": (width,),
        "linear2.weight": (config.num_key_value_heads, width),
        "bias": (config.num_key_value_heads,),
    }
    with h5py.File(name, "w") as file:
        for layer in range(config.num_hidden_layers):
            group = file.create_group(f"layer_{layer:03}")
            for tensor, shape in shapes.items():
                group[tensor] = generator.normal(size=shape).astype(np.float32)


def check_policies(path, model, prompt, continuation):
    write_gates("gates.h5", model)
    llama(
        *("verify", "--model", path, "--prompt-tokens", write_tokens("prompt.txt", prompt)),
        *("--continuation-tokens", write_tokens("continuation.txt", continuation)),
        *("--policy", ",".join(POLICIES), "--budget", "0.2,0.5", "--csv", "llama.csv"),
    )
    options = dict(policies=POLICIES, budgets=[0.2, 0.5], csv="transformers.csv", text="prompt")
    evictsim.verify(model, prompt, continuation, **options)
    pairs = list(zip(table("llama.csv"), table("transformers.csv"), strict=True))
    assert len(pairs) == 2 * len(POLICIES)
    for theirs, ours in pairs:
        point = f"{ours['policy']} {ours['budget']}"
        assert list(ours) == [*theirs, "rounds"], (list(ours), list(theirs))
        for name in ("text", "policy", "budget", "rows", "status", "prompt_length"):
            assert ours[name] == theirs[name], f"{point}: {name} {ours[name]} {theirs[name]}"
        assert float(ours["kl"]) > 1e-5 and float(ours["top1_agreement"]) == float(theirs["top1_agreement"]), point
        # Both in float32, in another order of sums.
        for name in ("kl", "nll_change", "squared_error", "m_000", "m_001", "m_002"):
            np.testing.assert_allclose(float(ours[name]), float(theirs[name]), rtol=1e-4, atol=1e-6, err_msg=point)


def check_sensitivity(path, model, tokens):
    llama(
        *("sensitivity", "--model", path, "--prompt-tokens", write_tokens("source.txt", tokens), "--text", "copy"),
        *("--length", LENGTH, "--rows", ROWS, "--draws", 2, "--seed", 5, "--csv", "probe.csv"),
    )
    found = evictsim.sensitivity(model, [evictsim.copy_probe(tokens, LENGTH, ROWS)], draws=2, seed=5)
    points = table("probe.csv")
    assert len(points) == 6
    for point in points:
        draw, layer = int(point["draw"]), int(point["layer"])
        for name, values in (("kl", found.kl), ("squared_error", found.squared_error)):
            np.testing.assert_allclose(values[draw][layer], float(point[name]), rtol=1e-4, err_msg=str(point))


def main(path):
    torch.set_num_threads(1)
    folder, name = os.path.split(os.path.abspath(path))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    generator = np.random.default_rng(5)
    tokens = generator.permutation(np.arange(3, model.config.vocab_size - 1)).tolist()
    for old in ("llama.csv", "transformers.csv", "probe.csv"):
        Path(old).unlink(missing_ok=True)
    check_policies(path, model, tokens[:PROMPT], tokens[PROMPT : PROMPT + ROWS])
    check_sensitivity(path, model, tokens)


if __name__ == "__main__":
    main(sys.argv[1])
