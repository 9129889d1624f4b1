"""Does the vLLM plug-in find every request's rows in a flattened batch, record what each rank computes, and leave the
server alone when it cannot? Run against hand-written metadata and an engine with the documented interface,
fake_vllm.py."""

import importlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import h5py
import numpy as np
import torch

import evictsim
import evictsim.vllm
import fake_vllm
import tiny_models
from evictsim.token_texts import token_texts
from evictsim.vllm_facts import attention_layers, head_range, layer_index, rope_attributes, sliding_window, weights
from evictsim.vllm_rows import RequestTable, map_rows, read_step

ROOT = Path(__file__).resolve().parents[2]


def new(name, prompt, blocks, computed=0):
    return SimpleNamespace(
        req_id=name, prompt_token_ids=list(range(prompt)), block_ids=blocks, num_computed_tokens=computed
    )


def scheduled(counts, news=(), cached=(), finished=(), resumed=()):
    """`cached`: (name, new blocks per group or None, computed)."""
    names, blocks, computed = zip(*cached) if cached else ((), (), ())
    return SimpleNamespace(
        scheduled_new_reqs=list(news),
        num_scheduled_tokens=counts,
        finished_req_ids=set(finished),
        total_num_scheduled_tokens=sum(counts.values()),
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(names),
            new_block_ids=list(blocks),
            num_computed_tokens=list(computed),
            resumed_req_ids=set(resumed),
        ),
    )


class RowMapping(unittest.TestCase):
    """Blocks of 4 tokens unless said otherwise; slot = 4 * block + place."""

    def setUp(self):
        self.table = RequestTable()

    def map(self, start, lengths, slots, blocks, kernel=4, manager=4):
        widest = max(map(len, blocks), default=1)
        common = SimpleNamespace(
            num_reqs=len(lengths),
            query_start_loc_cpu=torch.tensor(start, dtype=torch.int32),
            seq_lens=torch.tensor(lengths, dtype=torch.int32),
            slot_mapping=torch.tensor(slots),
            block_table_tensor=torch.tensor([row + [0] * (widest - len(row)) for row in blocks], dtype=torch.int64),
        )
        return map_rows(read_step(common, kernel, manager), self.table)

    def ranges(self, *step, **blocks):
        return [
            (entry.request_id, entry.first_row, entry.count, entry.first_position)
            for entry in self.map(*step, **blocks)
        ]

    def test_prefill_and_decode_in_one_batch_in_the_runners_order(self):
        self.table.update(scheduled({"a": 5}, [new("a", 5, ([3, 8],))]))
        self.assertEqual(self.ranges([0, 5], [5], [12, 13, 14, 15, 32], [[3, 8]]), [("a", 0, 5, 0)])
        self.table.update(scheduled({"a": 1, "b": 3}, [new("b", 6, ([5, 6],))], [("a", None, 5)]))
        # b's chunk of three rows stands before a's decode row, two rows of padding behind.
        self.assertEqual(
            self.ranges([0, 3, 4], [3, 6], [20, 21, 22, 33, -1, -1], [[5, 6], [3, 8]]), [("b", 0, 3, 0), ("a", 3, 1, 5)]
        )
        rows = self.map([0, 3, 4], [3, 6], [20, 21, 22, 33], [[5, 6], [3, 8]])[0]
        self.assertEqual(rows.rows([7, 8, 9, 1]), evictsim.Rows("b", 0, 0, [7, 8, 9], 6))
        # The second chunk, and a is over.
        self.assertEqual(
            self.table.update(scheduled({"b": 3}, cached=[("b", None, 3)], finished=["a", "unknown"])), ["a"]
        )
        self.assertEqual(self.ranges([0, 3], [6], [23, 24, 25], [[5, 6]]), [("b", 0, 3, 3)])

    def test_padded_requests_are_left_out(self):
        self.table.update(scheduled({"a": 1}, [new("a", 1, ([2],))]))
        self.assertEqual(self.ranges([0, 1, 1, 2], [1, 0, 1], [8, -1], [[2], [0], [0]]), [("a", 0, 1, 0)])

    def test_shared_prefix_blocks_do_not_confuse(self):
        self.table.update(scheduled({"a": 6}, [new("a", 6, ([1, 2],))]))
        self.ranges([0, 6], [6], [4, 5, 6, 7, 8, 9], [[1, 2]])
        # b begins with a's full block 1, and writes block 3 only.
        self.table.update(scheduled({"a": 1, "b": 2}, [new("b", 6, ([1, 3],), computed=4)], [("a", None, 6)]))
        self.assertEqual(
            self.ranges([0, 1, 3], [7, 6], [10, 12, 13], [[1, 2], [1, 3]]), [("a", 0, 1, 6), ("b", 1, 2, 4)]
        )

    def test_a_preempted_request_starts_over_in_other_blocks(self):
        self.table.update(scheduled({"a": 4}, [new("a", 4, ([1],))]))
        self.table.update(scheduled({"b": 4}, [new("b", 4, ([1],))]))  # a's block has been given away
        self.assertEqual(self.ranges([0, 4], [4], [4, 5, 6, 7], [[1]]), [("b", 0, 4, 0)])
        self.table.update(scheduled({"a": 5, "b": 1}, cached=[("a", ([7, 8],), 0), ("b", ([9],), 4)], resumed=["a"]))
        self.assertEqual(
            self.ranges([0, 1, 6], [5, 5], [36, 28, 29, 30, 31, 32], [[1, 9], [7, 8]]), [("b", 0, 1, 4), ("a", 1, 5, 0)]
        )

    def test_kernels_with_smaller_blocks_and_several_cache_groups(self):
        self.table.update(scheduled({"a": 10}, [new("a", 10, ([2, 5], [3, 4]))]))
        blocks = [[4, 5, 10, 11]]  # blocks 2 and 5 of 8 tokens, in halves
        slots = [*range(16, 24), 40, 41]
        self.assertEqual(self.ranges([0, 10], [10], slots, blocks, kernel=4, manager=8), [("a", 0, 10, 0)])
        # The second group's blocks lead to the same request.
        self.assertEqual(
            self.ranges([0, 10], [10], [*range(24, 34)], [[6, 7, 8, 9]], kernel=4, manager=8), [("a", 0, 10, 0)]
        )

    def test_metadata_that_does_not_fit_is_named(self):
        self.table.update(scheduled({"a": 2, "b": 1}, [new("a", 2, ([1],)), new("b", 1, ([2],))]))
        for text, step in {
            "belongs to no scheduled request": ([0, 2, 3], [2, 1], [4, 5, 40], [[1], [10]]),
            "no rows of request b": ([0, 2], [2], [4, 5], [[1]]),
            "two ranges": ([0, 2, 4, 5], [2, 2, 1], [4, 5, 4, 5, 8], [[1], [1], [2]]),
            "asked for 2 from 0": ([0, 1, 2], [1, 1], [4, 8], [[1], [2]]),
            "positions 3 and on": ([0, 2, 3], [5, 1], [4, 5, 8], [[1, 1], [2]]),
            "its block table says 28": ([0, 2, 3], [2, 1], [4, 5, 8], [[7], [2]]),
        }.items():
            with self.subTest(text), self.assertRaisesRegex(evictsim.CaptureError, text):
                self.ranges(*step)
        with self.assertRaisesRegex(evictsim.CaptureError, "not made of blocks"):
            self.ranges([0, 1], [1], [4], [[1]], kernel=4, manager=6)
        with self.assertRaisesRegex(evictsim.CaptureError, "began before the capture"):
            self.table.update(scheduled({"c": 1}, cached=[("c", None, 9)]))
        with self.assertRaisesRegex(evictsim.CaptureError, "embeddings instead of tokens"):
            self.table.update(
                scheduled(
                    {"d": 1},
                    [SimpleNamespace(req_id="d", prompt_token_ids=None, block_ids=([1],), num_computed_tokens=0)],
                )
            )


class Facts(unittest.TestCase):
    def test_heads_of_ranks(self):
        def first(rank, ranks):
            found = head_range(rank, ranks, 8, 4)
            return found["capture_first_query_head"], found["capture_first_kv_head"]

        self.assertEqual([first(rank, 2) for rank in range(2)], [(0, 0), (4, 2)])
        self.assertEqual([first(rank, 8) for rank in range(8)], [(rank, rank // 2) for rank in range(8)])
        with self.assertRaisesRegex(evictsim.CaptureError, "cannot be split over 3"):
            head_range(0, 3, 8, 4)

    def test_names_windows_and_rope(self):
        self.assertEqual(layer_index("model.layers.12.self_attn.attn"), 12)
        for name in ("model.attn", "model.layers.1.experts.3.attn"):
            with self.assertRaisesRegex(evictsim.CaptureError, "does not name one layer"):
                layer_index(name)
        for window, expected in (((-1, -1), 0), ((7, 0), 8), (None, 0), (8, 8)):
            self.assertEqual(sliding_window(SimpleNamespace(sliding_window=window)), expected)
        rotary = fake_vllm.RotaryEmbedding(8)
        found = rope_attributes(rotary, 8)
        np.testing.assert_allclose(found["inv_freq"], rotary._compute_inv_freq(500.0))
        self.assertEqual((found["rope_layout"], found["rotary_dim"], found["rope_attention_scaling"]), ("half", 8, 1.0))
        # A table that is not what the base alone gives, scaled in length too, is believed.
        angles = torch.arange(8)[:, None] * torch.tensor([0.5, 0.1])
        rotary.cos_sin_cache, rotary.is_neox_style = 1.25 * torch.cat([angles.cos(), angles.sin()], dim=-1), False
        found = rope_attributes(rotary, 8)
        np.testing.assert_allclose(found["inv_freq"], [0.5, 0.1], rtol=1e-5)
        self.assertEqual(
            (found["rope_layout"], found["rotary_dim"], found["rope_attention_scaling"]), ("interleaved", 4, 1.25)
        )

    def test_attention_layers_come_in_order_and_without_others(self):
        def layer(**changes):
            return SimpleNamespace(**{**dict(impl=SimpleNamespace(), num_kv_heads=1, head_size=4), **changes})

        first, second, experts = layer(), layer(), SimpleNamespace(impl=None)
        context = {"model.layers.1.attn": second, "model.layers.1.experts": experts, "model.layers.0.attn": first}
        found = attention_layers(context)
        self.assertTrue(found[0] is first and found[1] is second and len(found) == 2)
        for text, context in (
            ("latent", {"model.layers.0.attn": layer(use_mla=True)}),
            ("different width", {"model.layers.0.attn": layer(head_size_v=8)}),
            ("two attention blocks", {"model.layers.0.a": layer(), "model.layers.0.b": layer()}),
            ("pipeline", {"model.layers.3.attn": layer()}),
            ("pipeline", {}),
        ):
            with self.assertRaisesRegex(evictsim.CaptureError, text):
                attention_layers(context)

    def test_weights_of_a_rank(self):
        norm = fake_vllm.RMSNorm(4)
        layer = SimpleNamespace(
            self_attn=SimpleNamespace(o_proj=SimpleNamespace(weight=torch.zeros(4, 8, dtype=torch.int8))),
            input_layernorm=norm,
            post_attention_layernorm=norm,
            pre_feedforward_layernorm=norm,
        )
        self.assertEqual([name for _, name, _ in weights([layer], True)], ["input_norm", "output_norm"])
        layer.self_attn.o_proj.weight = torch.zeros(32)  # in a form of the CPU's kernels
        self.assertEqual([name for _, name, _ in weights([layer], False)], [])
        layer.self_attn.o_proj.weight = torch.zeros(4, 8)
        self.assertEqual([name for _, name, _ in weights([layer], False)], ["w_o"])


class Plugin(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = Path(folder.name)
        self.enterContext(torch.inference_mode())
        self.enterContext(mock.patch.dict(os.environ))
        self.geometry = fake_vllm.Geometry()

    def server(self, rank=0, ranks=1, directory="out", options="dtype=float32", on_error="raise", **changes):
        """A worker with a loaded model, as vLLM would have it after the plug-in was called."""
        for name in [name for name in sys.modules if name == "vllm" or name.startswith("vllm.")]:
            del sys.modules[name]
        sys.modules.pop("evictsim.vllm_backend", None)
        evictsim.vllm._capture = None
        os.environ.update(
            EVICTSIM_CAPTURE_DIRECTORY=str(self.out / directory),
            EVICTSIM_CAPTURE_OPTIONS=options,
            EVICTSIM_CAPTURE_ON_ERROR=on_error,
        )
        fake = fake_vllm.install()
        fake.parallel.rank, fake.parallel.ranks = rank, ranks
        evictsim.vllm.register()
        evictsim.vllm.register()  # vLLM may call it again
        self.addCleanup(evictsim.vllm.capture().close)
        backend = fake.AttentionBackendEnum.FLASH_ATTN.get_class()
        self.backend = backend if changes.get("uses_backend", True) else fake_vllm.Backend
        model = fake_vllm.Model(self.geometry, self.backend, rank, ranks)
        engine = fake_vllm.Engine(model, self.backend)
        worker = fake.Worker(fake_vllm.config(model, self.geometry, **changes), model)
        worker.load_model()
        worker.initialize_from_config(engine.kv_cache_config)
        engine.warm_up()
        return worker, engine

    def serve(self, worker, engine):
        """Chunked prefill, decode, a preemption, requests that come and go."""
        a = (list(range(1, 21)), [30, 31, 32, 33])
        b = (list(range(40, 49)), [50, 51, 52, 53, 54])
        c = (list(range(60, 66)), [70, 71])

        def run(*args, **kwargs):
            worker.execute_model(engine.step(*args, **kwargs))

        run({"a": 12}, {"a": a})
        run({"b": 9, "a": 8}, {"b": b})
        run({"a": 1, "b": 1})
        run({"b": 1, "c": 6}, {"c": c})  # a waits
        run({"a": 1, "b": 1, "c": 1})
        run({"b": 12, "a": 1}, resumed=["b"])  # b was preempted and is computed again
        engine.finish("c")
        run({"a": 1, "b": 1})
        engine.finish("a")
        run({"b": 1})
        engine.finish("b")
        run({})
        worker.shutdown()
        return {"a": (a[0] + a[1], 20), "b": (b[0] + b[1], 9), "c": ((c[0] + c[1])[:7], 6)}

    def sequences(self, path):
        files = [path]
        if path.is_dir():
            lines = map(json.loads, (path / "manifest.jsonl").read_text().splitlines())
            files = [path / line["name"] for line in lines if "model_record" not in line]
        return {
            group.attrs["request_id"]: group for file in map(h5py.File, files) for group in file["sequences"].values()
        }

    def assert_recorded(self, path, requests):
        found = self.sequences(path)
        self.assertEqual(set(found), set(requests))
        for name, (tokens, prompt) in requests.items():
            group = found[name]
            length = group.attrs["length"]
            self.assertEqual((length, group.attrs["prompt_length"]), (len(tokens), prompt), name)
            np.testing.assert_array_equal(group["token_ids"], tokens)
            for layer in range(self.geometry.layers):
                for kind, tensor, heads in (
                    (0, "q", self.geometry.query_heads),
                    (1, "k", self.geometry.kv_heads),
                    (2, "v", self.geometry.kv_heads),
                ):
                    expected = [
                        [
                            fake_vllm.expected(token, position, layer, head, self.geometry.width, kind).numpy()
                            for head in range(heads)
                        ]
                        for position, token in enumerate(tokens)
                    ]
                    np.testing.assert_array_equal(group[f"layer_{layer:03}/{tensor}"], expected, f"{name} {tensor}")
            file = group.file
            np.testing.assert_array_equal(file["model/layer_001/w_o"], fake_vllm.w_o(1, self.geometry))
            self.assertEqual(list(file["model/sliding_window"]), [0, 6])
            self.assertEqual((file.attrs["num_query_heads"], file.attrs["num_kv_heads"]), (8, 4))
            self.assertEqual((file.attrs["norm_kind"], file.attrs["engine"]), ("rms", "vllm"))

    def test_one_rank_records_every_request_whole(self):
        worker, engine = self.server()
        requests = self.serve(worker, engine)
        self.assertIsNone(evictsim.vllm.capture().stopped)
        self.assert_recorded(self.out / "out" / "rank-0", requests)
        self.assertEqual(subprocess.run(["evictsim", "trace", "verify", self.out / "out" / "rank-0"]).returncode, 0)

    def test_ranks_merge_into_the_whole(self):
        for ranks in (2, 8):  # 8: more ranks than KV heads, which are then repeated
            for rank in range(ranks):
                requests = self.serve(*self.server(rank, ranks, f"tp{ranks}"))
            parts = [self.out / f"tp{ranks}" / f"rank-{rank}" for rank in range(ranks)]
            merged = self.out / f"tp{ranks}.h5"
            result = subprocess.run(
                ["evictsim", "trace", "merge", *reversed(parts), "-o", merged], capture_output=True, text=True
            )
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("3 sequences", result.stdout)
            self.assertEqual(subprocess.run(["evictsim", "trace", "verify", merged]).returncode, 0)
            self.assert_recorded(merged, requests)
        refused = subprocess.run(
            ["evictsim", "trace", "merge", *parts[:7], "-o", self.out / "part.h5"], capture_output=True, text=True
        )
        self.assertEqual(refused.returncode, 1)
        self.assertIn("7 of 8 query heads", refused.stderr)

    def test_options_and_prefix_caching(self):
        worker, engine = self.server(options="dtype=float32; layers=1; q_rows=decode", prefix_caching=True)
        worker.execute_model(engine.step({"a": 16}, {"a": (list(range(1, 17)), [20, 21])}))
        block = engine.sequences["a"].blocks[0]
        worker.execute_model(
            engine.step({"a": 1, "b": 4}, {"b": (list(range(1, 13)), [])}, cached_prefix={"b": [block]})
        )
        worker.shutdown()
        found = self.sequences(self.out / "out" / "rank-0")
        self.assertEqual(set(found), {"a"})  # b's first tokens were never computed
        self.assertNotIn("layer_000", found["a"])
        self.assertEqual(list(found["a"]["layer_001/q_rows"]), [16])

    def test_texts_of_tokens_are_stored_when_asked_for(self):
        tokenizer = tiny_models.byte_level_tokenizer()
        tokenizer.save_pretrained(self.out / "tokenizer")
        options = dict(options="dtype=float32;store_text=1", tokenizer=str(self.out / "tokenizer"))
        worker, engine = self.server(**options)
        tokens = list(range(5, 20))
        worker.execute_model(engine.step({"a": 15}, {"a": (tokens, [])}))
        worker.shutdown()
        (group,) = self.sequences(self.out / "out" / "rank-0").values()
        self.assertEqual(bytes(group["token_bytes"]), b"".join(token_texts(tokenizer, 90)[5:20]))
        self.assertEqual(len(group["token_ends"]), 15)
        with self.assertRaisesRegex(evictsim.CaptureError, "no tokenizer"):
            self.server(**{**options, "tokenizer": str(self.out / "nowhere")})

    def test_full_graphs_are_turned_off_and_the_backend_keeps_its_name(self):
        self.server()
        builder = self.backend.get_builder_cls()
        self.assertIs(builder.get_cudagraph_support(None, None), fake_vllm.AttentionCGSupport.NEVER)
        self.assertTrue(issubclass(self.backend, fake_vllm.Backend) and issubclass(builder, fake_vllm.Builder))
        self.assertEqual(self.backend.get_name(), "FLASH_ATTN")

    def test_what_is_not_recorded_is_named(self):
        for text, changes in (
            ("pipeline parallelism", dict(pipeline=2)),
            ("speculative decoding", dict(speculative=1)),
        ):
            with self.assertRaisesRegex(evictsim.CaptureError, text):
                self.server(**changes)
        worker, engine = self.server(uses_backend=False)
        with self.assertRaisesRegex(evictsim.CaptureError, "EVICTSIM_CAPTURE_BACKEND"):
            worker.execute_model(engine.step({"a": 2}, {"a": ([1, 2], [])}))
        for attribute in ("alibi_slopes", "sinks", "kv_sharing_target_layer_name"):
            with mock.patch.object(fake_vllm.Impl, attribute, [1.0], create=True):
                impl = fake_vllm.Impl(1.0)
                impl.__dict__.pop("alibi_slopes")
                layer = SimpleNamespace(impl=impl, num_kv_heads=1, head_size=4)
                with self.assertRaisesRegex(evictsim.CaptureError, attribute):
                    attention_layers({"model.layers.0.attn": layer})
        os.environ["EVICTSIM_CAPTURE_OPTIONS"] = "layers"
        evictsim.vllm._capture = None
        with self.assertRaisesRegex(evictsim.CaptureError, "name=value"):
            evictsim.vllm.register()

    def test_the_server_goes_on_when_the_capture_cannot(self):
        logging.getLogger("evictsim").setLevel(logging.CRITICAL)
        self.addCleanup(logging.getLogger("evictsim").setLevel, logging.NOTSET)
        worker, engine = self.server(on_error="stop", uses_backend=False)
        worker.execute_model(engine.step({"a": 2}, {"a": ([1, 2], [])}))
        worker.execute_model(engine.step({"a": 1}, {}) if engine.sequences["a"].tokens.append(3) is None else None)
        self.assertEqual(worker.executed, 2)
        self.assertIn("no attention metadata", str(evictsim.vllm.capture().stopped))

    def test_without_a_directory_nothing_happens(self):
        evictsim.vllm._capture = None
        os.environ.pop("EVICTSIM_CAPTURE_DIRECTORY", None)
        with mock.patch.dict(sys.modules, {"vllm": None}):  # not even an import
            evictsim.vllm.register()
        self.assertIsNone(evictsim.vllm.capture())

    def test_entry_point_and_documented_names(self):
        project = tomllib.loads((ROOT / "traces/capture/python/pyproject.toml").read_text())
        module, _, name = project["project"]["entry-points"]["vllm.general_plugins"]["evictsim"].partition(":")
        self.assertIs(getattr(importlib.import_module(module), name), evictsim.vllm.register)
        code = "".join(path.read_text() for path in (ROOT / "traces/capture/python/evictsim").glob("vllm*.py"))
        names = set(re.findall(r"EVICTSIM_CAPTURE_\w+", code))
        text = (ROOT / "docs" / "capture.md").read_text()
        self.assertEqual({name for name in names if f"`{name}`" not in text}, set())


if __name__ == "__main__":
    unittest.main()
