"""Does the plug-in record what vLLM itself computes? Tiny random models are served by a build of vLLM for CPUs, which
install_vllm.sh installs, with more requests than its cache has room for, and by two tensor-parallel ranks; the traces
must hold the queries, keys and values of transformers over the same tokens."""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np
import torch

import evictsim.token_texts
import tiny_models

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 3
SERVE = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    server = LLM(**given["server"])
    sampling = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for count in given["counts"]]
    results = server.generate([{"prompt_token_ids": prompt} for prompt in given["prompts"]], sampling)
    preemptions = sum(metric.value for metric in server.get_metrics() if metric.name == "vllm:num_preemptions")
    tokens = [list(result.outputs[0].token_ids) for result in results]
    with open(given["output"], "w") as file:
        json.dump({"tokens": tokens, "preemptions": preemptions}, file)
"""


class Engine(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.random = random.Random(1)

    def make_model(self, family):
        geometry = dict(hidden_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64)
        self.model = tiny_models.make(family, num_hidden_layers=LAYERS, **geometry)
        self.model.save_pretrained(self.folder / "model")
        tiny_models.byte_level_tokenizer().save_pretrained(self.folder / "model")

    def serve(self, lengths, counts, **server):
        """Token ids of every request, prompt and answer, as far as they were run; and how often one was preempted."""
        # The package as pip would install it: vLLM looks for its entry point.
        project = (ROOT / "traces/capture/python/pyproject.toml").read_text()
        entry = re.search(r'^(\[project\.entry-points\."vllm.*?\]\n)(.*?)\n\n', project, re.MULTILINE | re.DOTALL)
        information = self.folder / "site" / "evictsim-0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: evictsim\nVersion: 0\n")
        (information / "entry_points.txt").write_text("[vllm.general_plugins]\n" + entry[2].replace('"', ""))
        script = self.folder / "serve.py"
        script.write_text(SERVE)
        prompts = [[self.random.randrange(3, 250) for _ in range(length)] for length in lengths]
        settings = dict(model=str(self.folder / "model"), dtype="float32", enforce_eager=True, max_model_len=400)
        settings |= dict(enable_prefix_caching=False, disable_log_stats=False, **server)
        settings |= dict(gpu_memory_utilization=0.2)  # of the memory of the machine, which others use too
        given = dict(server=settings, prompts=prompts, counts=counts, output=str(self.folder / "answers.json"))
        environment = {
            **os.environ,
            "PYTHONPATH": f"{self.folder / 'site'}:{os.environ['PYTHONPATH']}",
            "EVICTSIM_CAPTURE_DIRECTORY": str(self.folder / "out"),
            "EVICTSIM_CAPTURE_BACKEND": "CPU_ATTN",
            "EVICTSIM_CAPTURE_OPTIONS": "dtype=float32;store_text=1",
            "EVICTSIM_CAPTURE_ON_ERROR": "raise",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, script, json.dumps(given)]
        result = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout[-4000:] + result.stderr[-4000:])
        answers = json.loads((self.folder / "answers.json").read_text())
        whole = {str(index): prompt + answers["tokens"][index][:-1] for index, prompt in enumerate(prompts)}
        return whole, answers["preemptions"]

    def sequences(self, path):
        files = sorted(path.glob("shard-*.h5")) if path.is_dir() else [path]
        groups = (group for file in map(h5py.File, files) for group in file["sequences"].values())
        # vLLM adds something random to the names of its requests.
        return {group.attrs["request_id"].partition("-")[0]: group for group in groups}

    def assert_recorded(self, path, tokens, lengths):
        self.assertEqual(subprocess.run(["evictsim", "trace", "verify", path], capture_output=True).returncode, 0)
        torch.set_num_threads(1)
        options = dict(dtype="float32", channels="none")
        with torch.no_grad(), evictsim.capture(self.model, self.folder / "own", **options) as own:
            for name, ids in tokens.items():
                own.next_requests([name])
                self.model(torch.tensor([ids]), use_cache=False)
        found, expected = self.sequences(path), self.sequences(self.folder / "own")
        self.assertEqual(set(found), set(tokens))
        texts = evictsim.token_texts.token_texts(tiny_models.byte_level_tokenizer(), 640)
        texts += [b""] * (640 - len(texts))  # the model knows more tokens
        for (name, ids), length in zip(tokens.items(), lengths):
            group = found[name]
            self.assertEqual(group.attrs["prompt_length"], length)
            np.testing.assert_array_equal(group["token_ids"], ids)
            self.assertEqual(bytes(group["token_bytes"]), b"".join(texts[token] for token in ids))
            for layer in range(LAYERS):
                for tensor in "qkv":
                    rows, own_rows = (one[f"layer_{layer:03}/{tensor}"][:] for one in (group, expected[name]))
                    self.assertEqual(rows.shape, own_rows.shape)
                    self.assertLess(np.linalg.norm(rows - own_rows), 1e-5 * np.linalg.norm(own_rows))
        record, own_record = (next(iter(one.values())).file for one in (found, expected))
        np.testing.assert_array_equal(record["model/inv_freq"], own_record["model/inv_freq"])
        for name in ("attention_scale", "logit_softcap", "rope_layout", "rope_theta", "norm_kind", "norm_epsilon"):
            self.assertEqual(record.attrs[name], own_record.attrs[name], name)
        self.assertEqual("sliding_window" in record["model"], "sliding_window" in own_record["model"])
        if "sliding_window" in record["model"]:
            np.testing.assert_array_equal(record["model/sliding_window"], own_record["model/sliding_window"])

    def test_chunks_batches_and_preemption(self):
        self.make_model("qwen3")
        lengths = [self.random.randrange(1, 150) for _ in range(20)]
        tokens, preemptions = self.serve(
            lengths,
            [self.random.randrange(1, 120) for _ in lengths],
            block_size=32,
            num_gpu_blocks_override=15,
            max_num_seqs=8,
            max_num_batched_tokens=96,
        )
        self.assertGreater(preemptions, 0)
        self.assert_recorded(self.folder / "out" / "rank-0", tokens, lengths)

    def test_two_tensor_parallel_ranks_merge(self):
        self.make_model("llama")
        lengths = [150, 9, 37, 1]
        counts, batches = [12, 20, 3, 8], dict(max_num_seqs=3, max_num_batched_tokens=64)
        tokens, _ = self.serve(lengths, counts, tensor_parallel_size=2, **batches)
        merged, parts = self.folder / "merged.h5", [self.folder / "out" / f"rank-{rank}" for rank in (1, 0)]
        subprocess.run(["evictsim", "trace", "merge", *parts, "-o", merged], check=True, stdout=subprocess.DEVNULL)
        self.assert_recorded(merged, tokens, lengths)


if __name__ == "__main__":
    unittest.main()
