"""Does the transformers adapter leave the model as it was, name what it cannot record, and record options, requests and
per-token channels as documented?"""

import csv
import json
import re
import subprocess
import tempfile
import unittest
import warnings
from pathlib import Path

import h5py
import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import DynamicCache, PreTrainedTokenizerFast

import evictsim
import evictsim.transformers
import tiny_models
from evictsim.token_texts import token_texts

ROOT = Path(__file__).resolve().parents[2]


def shards(directory):
    lines = map(json.loads, (Path(directory) / "manifest.jsonl").read_text().splitlines())
    return [h5py.File(Path(directory) / line["name"]) for line in lines if "model_record" not in line]


def sequences(directory):
    return {group.attrs["request_id"]: group for file in shards(directory) for group in file["sequences"].values()}


def state(model):
    """Everything that a capture touches."""
    hooks = [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.named_modules()
    ]
    return hooks, model.config._attn_implementation, "generate" in model.__dict__, dict(evictsim.transformers._captures)


class Behaviour(unittest.TestCase):
    def setUp(self):
        torch.set_num_threads(1)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.enterContext(torch.no_grad())
        self.out = str(Path(folder.name) / "out")
        self.model = tiny_models.make("llama")
        self.ids, self.mask = tiny_models.prompts(2, 12, "left")
        self.before = state(self.model)

    def generate(self, **options):
        return self.model.generate(
            self.ids,
            attention_mask=self.mask,
            **{"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5, **options},
        )

    def assert_as_before(self):
        self.assertEqual(state(self.model), self.before)

    # The model.

    def test_model_is_left_as_it_was(self):
        with evictsim.capture(self.model, self.out):
            self.assertNotEqual(state(self.model), self.before)
            self.generate()
        self.assert_as_before()
        cache = DynamicCache(config=self.model.config)
        with evictsim.capture(self.model, self.out + "2"):
            self.model(
                self.ids,
                past_key_values=cache,
                position_ids=(self.mask.cumsum(-1) - 1).clamp(min=0),
                attention_mask=self.mask,
            )
            self.assertIn("reorder_cache", cache.__dict__)
        self.assertNotIn("reorder_cache", cache.__dict__)

    def test_model_is_left_as_it_was_after_errors(self):
        with self.assertRaisesRegex(ZeroDivisionError, "mine"):
            with evictsim.capture(self.model, self.out):
                self.generate()
                raise ZeroDivisionError("mine")
        self.assert_as_before()
        self.assertEqual(len(sequences(self.out)), 2)  # what was recorded before stays

        def fails(module, args):
            raise ZeroDivisionError("inside")

        with self.assertRaisesRegex(ZeroDivisionError, "inside"):
            with evictsim.capture(self.model, self.out + "2"):
                handle = self.model.model.layers[1].mlp.register_forward_pre_hook(fails)
                try:
                    self.generate()
                finally:
                    handle.remove()
        self.assert_as_before()
        self.assertEqual(Path(self.out + "2", "manifest.jsonl").exists() and len(sequences(self.out + "2")), 0)

    def test_begin_that_fails_leaves_the_model(self):
        for options, text in (
            (dict(no_such_option=1), "no such option.*q_rows"),
            (dict(layers=[7]), "3 layers"),
            (dict(dtype="float8"), "float16, bfloat16 or float32"),
            (dict(on_error="hope"), "on_error"),
        ):
            with self.assertRaisesRegex(evictsim.CaptureError, text):
                with evictsim.capture(self.model, self.out, **options):
                    pass
            self.assert_as_before()
        with self.assertRaisesRegex(evictsim.CaptureError, "file not found"):
            with evictsim.capture(self.model, self.out + "/no/such/folder"):
                pass
        with evictsim.capture(self.model, self.out):
            with self.assertRaisesRegex(evictsim.CaptureError, "captured already"):
                evictsim.capture(self.model, self.out + "2").__enter__()
        self.assert_as_before()

    def test_other_models_of_the_class_are_not_recorded(self):
        other = tiny_models.make("llama", seed=5)
        expected = other(self.ids).logits
        with evictsim.capture(self.model, self.out) as capture:
            other.set_attn_implementation(self.model.config._attn_implementation)
            self.assertTrue(torch.equal(other(self.ids).logits, expected))
        self.assertEqual(capture.counters["rows"], 0)
        self.assertTrue(torch.equal(other(self.ids).logits, expected))  # the name goes on to work

    def test_compiled_model_is_recorded_too(self):
        expected = self.generate()
        with evictsim.capture(self.model, self.out) as capture:
            compiled = torch.compile(self.model.forward, backend="eager")
            cache = DynamicCache(config=self.model.config)
            logits = compiled(self.ids[:1], past_key_values=cache, use_cache=True).logits
        self.assertEqual(capture.counters["rows"], 12)
        self.assertEqual(int(logits[0, -1].argmax()), int(expected[0, 12]))

    # What cannot be recorded.

    def test_what_cannot_be_recorded_is_named(self):
        cache = DynamicCache(config=self.model.config)
        self.model(self.ids, past_key_values=cache)
        calls = {
            "begin it first": lambda: self.model(self.ids[:, :1], past_key_values=cache),
            "beam search": lambda: self.generate(num_beams=2),
            "without input_ids": lambda: self.model(inputs_embeds=self.model.model.embed_tokens(self.ids)),
            "give position_ids": lambda: self.model(self.ids, attention_mask=self.mask),
            "padding between tokens": lambda: self.model(
                self.ids, attention_mask=torch.tensor([[1, 1, 0, 1] + [0] * 8]).expand(2, -1)
            ),
            "[0-9] names were given|different names": lambda: self.named(["a", "b", "c"]),
            "2 requests": lambda: self.named(["a", "a"]),
        }
        for number, (text, call) in enumerate(calls.items()):
            with self.subTest(text), self.assertRaisesRegex(evictsim.CaptureError, text):
                with evictsim.capture(self.model, f"{self.out}{number}") as self.capture:
                    call()
            self.assert_as_before()

    def named(self, names):
        self.capture.next_requests(names)
        self.generate()

    def test_capture_can_stop_where_the_model_goes_on(self):
        expected = self.generate(num_beams=2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with evictsim.capture(self.model, self.out, on_error="stop") as capture:
                found = self.generate(num_beams=2)
        self.assertTrue(torch.equal(found, expected))
        self.assertIn("beam search", str(capture.stopped))
        self.assertTrue(any("the capture has stopped" in str(warning.message) for warning in caught))
        self.assert_as_before()

    def test_models_without_a_whole_description_are_refused(self):
        gpt = __import__("transformers").GPT2LMHeadModel(
            __import__("transformers").GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50)
        )
        with self.assertRaisesRegex(evictsim.CaptureError, "a decoder with layers"):
            evictsim.capture(gpt, self.out).__enter__()
        self.model.config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
        with self.assertRaisesRegex(evictsim.CaptureError, "chunked_attention"):
            evictsim.capture(self.model, self.out).__enter__()

    def test_bad_values_are_lost_and_said(self):
        handle = self.model.model.layers[1].self_attn.v_proj.register_forward_hook(
            lambda module, args, output: output * torch.inf
        )
        self.addCleanup(handle.remove)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with evictsim.capture(self.model, self.out, channels="none") as capture:
                self.model(self.ids[:1])
        self.assertTrue(any("rows are lost" in str(warning.message) for warning in caught))
        self.assertEqual(capture.counters["dropped_rows"], 12)

    # What is recorded.

    def test_requests_tokens_and_positions(self):
        with evictsim.capture(self.model, self.out, store_text=True) as capture:
            capture.next_requests(
                ["first", "second"], tasks=["qa", None], texts=["what", None], spans=[[("evidence", 2, 4)], None]
            )
            tokens = self.generate()
            self.generate()  # unnamed
        found = sequences(self.out)
        self.assertEqual(set(found), {"first", "second", "request-000002", "request-000003"})
        for name, row, prompt in (("first", 0, 12), ("second", 1, 7)):
            group = found[name]
            self.assertEqual((group.attrs["prompt_length"], group.attrs["length"]), (prompt, prompt + 4))
            np.testing.assert_array_equal(group["token_ids"], tokens[row, 12 - prompt : -1])
            np.testing.assert_array_equal(group["positions"], np.arange(prompt + 4))
        self.assertEqual((found["first"].attrs["task"], found["first"].attrs["text"]), ("qa", "what"))
        np.testing.assert_array_equal(found["first"]["spans/evidence"], [[2, 4]])
        self.assertEqual(len({file.attrs["capture_torch"] for file in shards(self.out)}), 1)

    def test_texts_of_tokens_are_stored_when_asked_for(self):
        tokenizer = tiny_models.byte_level_tokenizer()
        words = "na\u00efve \U0001f40d\n<|end|>"
        ids = torch.tensor([tokenizer(words).input_ids])
        for asked in (True, False):
            out = self.out + str(asked)
            with evictsim.capture(self.model, out, tokenizer=tokenizer, store_text=asked):
                self.model(ids)
            (group,) = sequences(out).values()
            self.assertEqual(("token_bytes" in group, "token_ends" in group), (asked, asked))
            if asked:
                self.assertEqual(bytes(group["token_bytes"]), words.encode())
                np.testing.assert_array_equal(group["token_ends"], [*range(1, 13), 19])  # a token for each byte

    def test_texts_of_tokens_as_vocabularies_write_them(self):
        words = "na\u00efve \U0001f40d <|end|>"
        for tokenizer, expected in (
            (tiny_models.byte_level_tokenizer(), words),
            (tiny_models.byte_fallback_tokenizer(), " " + words),
        ):
            texts = token_texts(tokenizer, 640)
            self.assertEqual(len(texts), len(tokenizer))
            found = b"".join(texts[token] for token in tokenizer(words).input_ids)
            self.assertEqual(found, expected.encode())
            self.assertEqual(token_texts(tokenizer, 5), texts[:5])
        whole_words = Tokenizer(models.WordLevel({"one": 0, "tw\u00f6": 2}, unk_token="one"))
        texts = token_texts(PreTrainedTokenizerFast(tokenizer_object=whole_words), 640)
        self.assertEqual(texts[0], b"one")

    def test_a_loop_with_the_cache_that_the_model_made(self):
        ids, tokens = self.ids[:1], []
        with evictsim.capture(self.model, self.out):
            result = self.model(ids, use_cache=True)
            for _ in range(3):
                tokens.append(result.logits[:, -1:].argmax(-1))
                result = self.model(tokens[-1], past_key_values=result.past_key_values)
            self.model(ids, use_cache=False)
        whole, alone = sequences(self.out).values()
        self.assertEqual((whole.attrs["prompt_length"], alone.attrs["length"]), (12, 12))
        np.testing.assert_array_equal(whole["token_ids"], torch.cat([ids, *tokens], dim=1)[0])

    def test_several_sequences_of_a_prompt(self):
        torch.manual_seed(0)
        with evictsim.capture(self.model, self.out):
            tokens = self.generate(num_return_sequences=2, do_sample=True)
        found = list(sequences(self.out).values())
        self.assertEqual([group.attrs["prompt_length"] for group in found], [12, 12, 7, 7])
        for group, row, padding in zip(found, tokens, (0, 0, 5, 5)):
            np.testing.assert_array_equal(group["token_ids"], row[padding:-1])

    def test_a_second_turn_goes_on_with_its_request(self):
        cache = DynamicCache(config=self.model.config)
        with evictsim.capture(self.model, self.out):
            first = self.model.generate(
                self.ids[:1], past_key_values=cache, do_sample=False, max_new_tokens=4, min_new_tokens=4
            )
            longer = torch.cat([first, self.ids[:1, :3]], dim=1)
            second = self.model.generate(
                longer, past_key_values=cache, do_sample=False, max_new_tokens=4, min_new_tokens=4
            )
        (group,) = sequences(self.out).values()
        self.assertEqual(group.attrs["prompt_length"], 12)
        np.testing.assert_array_equal(group["token_ids"], second[0, :-1])

    def test_sequences_of_a_batch_end_at_their_own_end(self):
        free = self.generate(max_new_tokens=12, min_new_tokens=12)
        end = int(free[0, 12 + 3])  # the first sequence ends after three tokens, if the second does not
        self.assertNotIn(end, free[1, 12:].tolist())
        self.assertNotIn(end, free[0, 12:15].tolist())
        self.model.generation_config.eos_token_id = end
        with evictsim.capture(self.model, self.out) as capture:
            capture.next_requests(["short", "long"])
            self.model.generate(self.ids, attention_mask=self.mask, do_sample=False, max_new_tokens=12)
        found = sequences(self.out)
        self.assertEqual(found["short"].attrs["length"], 12 + 3)
        self.assertEqual(found["long"].attrs["length"], 7 + 11)
        np.testing.assert_array_equal(found["short"]["token_ids"][12:], free[0, 12:15])

    def test_options_reach_the_sink(self):
        with evictsim.capture(
            self.model,
            self.out,
            layers=[0, 2],
            kv_heads=[1],
            q_rows="window:3+decode",
            q_all_layers=[2],
            dtype="bfloat16",
            channels=["residual_norm"],
            every=2,
            token_ids="hashed",
            unembedding=True,
        ):
            self.generate()
        (file,) = shards(self.out)
        np.testing.assert_array_equal(file["model/layers"], [0, 2])
        self.assertEqual((file.attrs["num_kv_heads"], file.attrs["num_query_heads"]), (1, 2))
        (group,) = file["sequences"].values()
        np.testing.assert_array_equal(group["layer_000/q_rows"], [9, 10, 11, 12, 13, 14, 15])
        self.assertEqual(group["layer_002/q"].shape, (16, 2, 8))
        self.assertEqual(group["layer_000/k"].id.get_type().get_size(), 2)
        self.assertIn("residual_norm", group)
        self.assertNotIn("entropy", group)
        self.assertEqual(file.attrs["capture_token_ids"], "hashed")
        self.assertEqual(file["model/unembedding"].shape, (640, 32))
        self.assertEqual(file["model/layer_000/w_o"].shape, (32, 16))

    def test_model_record(self):
        for family, rope, window in (
            ("llama", 5000.0, None),
            ("mistral", 10000.0, [9, 9, 9]),
            ("gemma2", 10000.0, [9, 0, 9]),
        ):
            model = tiny_models.make(family)
            with evictsim.capture(model, self.out + family):
                model(self.ids[:1])
            (file,) = shards(self.out + family)
            self.assertEqual(file.attrs["rope_layout"], "half")
            self.assertEqual(file.attrs["rope_theta"], rope)
            np.testing.assert_allclose(file["model/inv_freq"], model.model.rotary_emb.inv_freq.double())
            self.assertEqual(list(file["model/sliding_window"]) if window else None, window)
            self.assertEqual(file.attrs["norm_kind"], "rms_plus_one" if family == "gemma2" else "rms")
            self.assertEqual("output_norm" in file["model/layer_000"], family == "gemma2")
            self.assertAlmostEqual(file.attrs["attention_scale"], model.model.layers[0].self_attn.scaling)
            self.assertEqual(file.attrs["logit_softcap"], 3.0 if family == "gemma2" else 0.0)

    def test_channels_are_those_of_the_whole_run(self):
        for family in ("llama", "gemma2"):
            self.model = tiny_models.make(family)
            with evictsim.capture(self.model, self.out + family, channels="all", dtype="float32"):
                tokens = self.generate(prefill_chunk_size=5)
            for name, row, padding in (("request-000000", 0, 0), ("request-000001", 1, 5)):
                group = sequences(self.out + family)[name]
                self.assertEqual(group.attrs["prompt_length"], 12 - padding)
                ids = tokens[row : row + 1, padding:-1]
                result = self.model(ids, output_hidden_states=True)
                log_p = result.logits[0].double().log_softmax(-1)
                terms = -(log_p.exp() * log_p)
                np.testing.assert_allclose(group["entropy"], terms.sum(-1), rtol=1e-4)
                tops = log_p.sort(descending=True).indices
                for place, top in enumerate((128, 256, 512)):
                    np.testing.assert_allclose(
                        group["entropy_top"][:, place], terms.gather(-1, tops[:, :top]).sum(-1), rtol=1e-4
                    )
                own = log_p[:-1].gather(-1, ids[0, 1:, None])[:, 0]
                self.assertTrue(np.isnan(group["logprob"][0]))
                np.testing.assert_allclose(group["logprob"][1:], own, rtol=1e-3, atol=1e-3)
                streams = [layer[0].double() for layer in result.hidden_states]
                np.testing.assert_allclose(group["residual_norm"][1], streams[1].norm(dim=-1), rtol=1e-4)
                self.assertEqual(group["cos_attention"].shape, (3, ids.shape[1]))
                np.testing.assert_allclose(group["step_norm"][0, 1:], streams[1].diff(dim=0).norm(dim=-1), rtol=1e-3)

    def test_half_precision_values_are_stored_as_they_are(self):
        model = self.model.to(torch.bfloat16)
        with evictsim.capture(model, self.out, dtype="float32"):
            keys = model(self.ids[:1], use_cache=True).past_key_values.layers[1].keys
        (group,) = sequences(self.out).values()
        np.testing.assert_array_equal(group["layer_001/k"], keys[0].detach().transpose(0, 1).float())

    def test_no_row_of_an_unfinished_shard_is_lost(self):
        with evictsim.capture(self.model, self.out, shard_bytes=16384) as capture:
            for _ in range(6):
                self.generate()
        self.assertEqual(capture.counters["requests"], 12)
        self.assertGreater(capture.counters["shards"], 1)
        self.assertEqual(len(sequences(self.out)), 12)

    def test_documented_lines_run(self):
        text = (ROOT / "docs" / "capture.md").read_text()
        blocks = re.findall(r"<!-- run with a model -->\n```python\n(.*?)```", text, re.DOTALL)
        self.assertGreaterEqual(len(blocks), 2)
        model, inputs = self.model, {"input_ids": self.ids, "attention_mask": self.mask}
        with tempfile.TemporaryDirectory() as folder:
            for number, block in enumerate(blocks):
                code = block.replace('"out/', f'"{folder}/{number}')
                self.assertNotEqual(code, block)
                exec(compile(code, "docs/capture.md", "exec"), {"model": model, "inputs": inputs})
                self.assertEqual(len(sequences(f"{folder}/{number}")), 2)
        self.assert_as_before()

    def test_replay_reads_it(self):
        ids, _ = tiny_models.prompts(1, 200, "left", seed=3)
        with evictsim.capture(self.model, self.out):
            self.model.generate(ids, do_sample=False, max_new_tokens=8, min_new_tokens=8)
        result = subprocess.run(
            [
                "evictsim",
                "replay",
                self.out,
                "--policy",
                "snapkv(window=16),expected_attention,knorm",
                "--budget",
                "0.5,1",
                "--csv",
                self.out + ".csv",
                "--quiet",
            ],
            capture_output=True,
            text=True,
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(self.out + ".csv", newline="") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(len(rows), 6)
        for row in rows:
            self.assertEqual(float(row["output_error"]) < 1e-6, row["budget"] == "1", row)


if __name__ == "__main__":
    unittest.main()
