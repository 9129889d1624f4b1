"""The part of vLLM v1 that the plug-in touches, written from its documented interface (registry of attention backends,
CommonAttentionMetadata, SchedulerOutput, Worker), and a paged engine with continuous batching behind it. vLLM itself is
not run by these tests. Keys, values and queries are functions of token, position, layer and head, so what a trace must
hold is known."""

import enum
import importlib
import sys
import types
from dataclasses import dataclass
from types import SimpleNamespace

import torch

BACKEND = "vllm.v1.attention.backends.flash_attn"
REGISTRY = "vllm.v1.attention.backends.registry"


def expected(token, position, layer, head, width, kind):
    """Of one row and head, for kind 0, 1, 2: q, k, v."""
    place = torch.arange(width) + 31 * token + 7 * position + 101 * layer + 13 * head + 1009 * kind
    return (place % 97).float() / 32 - 1


class AttentionCGSupport(enum.Enum):
    NEVER, ALWAYS = 0, 3


class Builder:
    _cudagraph_support = AttentionCGSupport.ALWAYS

    def __init__(self, kv_cache_spec, layer_names):
        self.kv_cache_spec, self.layer_names = kv_cache_spec, layer_names

    @classmethod
    def get_cudagraph_support(cls, vllm_config, kv_cache_spec):
        return cls._cudagraph_support

    def build(self, common_prefix_len, common_attn_metadata, fast_build=False):
        return SimpleNamespace(num_actual_tokens=common_attn_metadata.num_actual_tokens)


class Impl:
    def __init__(self, scale, window=None):
        self.scale, self.logits_soft_cap, self.alibi_slopes = scale, 0.0, None
        self.sliding_window = (-1, -1) if window is None else (window - 1, 0)

    def forward(self, layer, query, key, value, kv_cache, attn_metadata, output=None, output_scale=None):
        return output.copy_(query) if output is not None else query


class Backend:
    @staticmethod
    def get_name():
        return "FLASH_ATTN"

    @staticmethod
    def get_impl_cls():
        return Impl

    @staticmethod
    def get_builder_cls():
        return Builder


def install():
    """Puts fresh modules into sys.modules; returns them by name."""
    overrides = {}

    class AttentionBackendEnum(enum.Enum):
        FLASH_ATTN = BACKEND + ".FlashAttentionBackend"
        TRITON_ATTN = "vllm.v1.attention.backends.triton_attn.TritonAttentionBackend"

        def get_class(self):
            module, _, name = overrides.get(self, self.value).rpartition(".")
            return getattr(importlib.import_module(module), name)

    def register_backend(member, class_path=None, is_mamba=False):
        overrides[member] = class_path

    class Worker:
        """As gpu_worker.Worker: a model runner's life in one process."""

        def __init__(self, config, model):
            self.vllm_config, self._model, self.executed = config, model, 0

        def get_model(self):
            return self._model

        def load_model(self):
            pass

        def initialize_from_config(self, kv_cache_config):
            pass

        def execute_model(self, scheduler_output):
            self.executed += 1
            return self._model.engine.execute(scheduler_output)

        def shutdown(self):
            pass

    parallel = SimpleNamespace(rank=0, ranks=1)
    contents = {
        "vllm": dict(__version__="0.0.fake"),
        "vllm.distributed": dict(
            get_tensor_model_parallel_rank=lambda: parallel.rank,
            get_tensor_model_parallel_world_size=lambda: parallel.ranks,
        ),
        "vllm.v1": {},
        "vllm.v1.attention": {},
        "vllm.v1.attention.backends": {},
        "vllm.v1.worker": {},
        "vllm.v1.attention.backend": dict(AttentionCGSupport=AttentionCGSupport),
        REGISTRY: dict(AttentionBackendEnum=AttentionBackendEnum, register_backend=register_backend),
        BACKEND: dict(FlashAttentionBackend=Backend),
        "vllm.v1.worker.gpu_worker": dict(Worker=Worker),
    }
    for name, values in contents.items():
        module = types.ModuleType(name)
        module.__dict__.update(values)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return SimpleNamespace(parallel=parallel, Worker=Worker, AttentionBackendEnum=AttentionBackendEnum)


@dataclass
class Geometry:
    layers: int = 2
    query_heads: int = 8
    kv_heads: int = 4
    width: int = 4
    hidden: int = 12
    vocabulary: int = 90
    windows: tuple = (None, 6)


class RotaryEmbedding(torch.nn.Module):
    def __init__(self, width, base=500.0):
        super().__init__()
        self.base, self.is_neox_style, self.width = base, True, width
        angles = torch.arange(8)[:, None] * self._compute_inv_freq(base)
        self.register_buffer("cos_sin_cache", torch.cat([angles.cos(), angles.sin()], dim=-1).to(torch.bfloat16))

    def _compute_inv_freq(self, base):
        return 1.0 / base ** (torch.arange(0, self.width, 2) / self.width)


class RMSNorm(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight, self.variance_epsilon = torch.nn.Parameter(torch.linspace(0.5, 2, size)), 1e-5


def w_o(layer, geometry):
    """Of the whole model: [D, Hq * d]."""
    columns = geometry.query_heads * geometry.width
    return (torch.arange(geometry.hidden * columns).reshape(geometry.hidden, columns) * (layer + 3) % 89).float() / 64


class Model(torch.nn.Module):
    """One rank's part of a decoder whose layers only make q, k and v."""

    def __init__(self, geometry, backend, rank, ranks):
        super().__init__()
        self.geometry = geometry
        self.query = range(rank * geometry.query_heads // ranks, (rank + 1) * geometry.query_heads // ranks)
        first = rank * geometry.kv_heads // ranks
        self.kv = range(first, first + max(1, geometry.kv_heads // ranks))
        self.model, self.attentions = torch.nn.Module(), []
        layers = []
        for index in range(geometry.layers):
            attention = torch.nn.Module()
            attention.layer_name = f"model.layers.{index}.self_attn.attn"
            attention.num_heads, attention.num_kv_heads = len(self.query), len(self.kv)
            attention.head_size, attention.use_mla = geometry.width, False
            attention.impl = backend.get_impl_cls()(geometry.width**-0.5, geometry.windows[index])
            layer = torch.nn.Module()
            layer.input_layernorm = RMSNorm(geometry.hidden)
            layer.self_attn = torch.nn.Module()
            layer.self_attn.attn, layer.self_attn.rotary_emb = attention, RotaryEmbedding(geometry.width)
            layer.self_attn.o_proj = torch.nn.Linear(len(self.query) * geometry.width, geometry.hidden, bias=False)
            columns = slice(self.query.start * geometry.width, self.query.stop * geometry.width)
            layer.self_attn.o_proj.weight.data = w_o(index, geometry)[:, columns]
            self.attentions.append(attention)
            layers.append(layer)
        self.model.layers = torch.nn.ModuleList(layers)

    def forward(self, input_ids, positions, metadata=None, intermediate_tensors=None, inputs_embeds=None):
        for index, attention in enumerate(self.attentions):

            def rows(heads, kind):
                return torch.stack(
                    [
                        torch.stack(
                            [expected(token, position, index, head, self.geometry.width, kind) for head in heads]
                        )
                        for token, position in zip(input_ids.tolist(), positions.tolist())
                    ]
                )

            query = rows(self.query, 0)
            attention.impl.forward(
                attention, query, rows(self.kv, 1), rows(self.kv, 2), None, metadata, output=torch.empty_like(query)
            )


@dataclass
class Sequence:
    prompt: list
    tokens: list
    blocks: list
    computed: int = 0


class Engine:
    """Scheduler and runner: chunks of prompts and decode rows in one batch, padded rows behind, paged keys."""

    def __init__(self, model, backend, manager_block=8, kernel_block=4, padding=3):
        self.model, self.manager_block, self.kernel_block, self.padding = model, manager_block, kernel_block, padding
        spec = SimpleNamespace(block_size=kernel_block)
        self.builders = [backend.get_builder_cls()(spec, [attention.layer_name]) for attention in model.attentions]
        self.kv_cache_config = SimpleNamespace(
            kv_cache_groups=[
                SimpleNamespace(
                    layer_names=[attention.layer_name for attention in model.attentions],
                    kv_cache_spec=SimpleNamespace(block_size=manager_block),
                )
            ]
        )
        self.sequences, self.free, self.finished = {}, list(range(200, 0, -1)), set()
        model.engine = self

    def step(self, counts, new=(), resumed=(), cached_prefix=None):
        """The scheduler's output for `counts`: request -> rows. `new`: request -> (prompt, continuation)."""
        news, cached = (
            [],
            SimpleNamespace(
                req_ids=[],
                resumed_req_ids=set(resumed),
                new_token_ids=[],
                new_block_ids=[],
                num_computed_tokens=[],
                num_output_tokens=[],
                all_token_ids={},
            ),
        )
        for name, (prompt, continuation) in dict(new).items():
            shared = list((cached_prefix or {}).get(name, []))
            self.sequences[name] = Sequence(prompt, prompt + continuation, shared, len(shared) * self.manager_block)
        for name, count in counts.items():
            sequence = self.sequences[name]
            if name in resumed:
                self.free += sequence.blocks
                sequence.blocks, sequence.computed = [], 0
            added = []
            while (len(sequence.blocks) + len(added)) * self.manager_block < sequence.computed + count:
                added.append(self.free.pop())
            sequence.blocks += added
            if name in dict(new):
                news.append(
                    SimpleNamespace(
                        req_id=name,
                        prompt_token_ids=sequence.prompt,
                        block_ids=(list(sequence.blocks),),
                        num_computed_tokens=sequence.computed,
                    )
                )
            else:
                cached.req_ids.append(name)
                cached.new_block_ids.append((list(sequence.blocks) if name in resumed else added,) if added else None)
                cached.num_computed_tokens.append(sequence.computed)
        finished, self.finished = self.finished, set()
        return SimpleNamespace(
            scheduled_new_reqs=news,
            scheduled_cached_reqs=cached,
            finished_req_ids=finished,
            num_scheduled_tokens=dict(counts),
            total_num_scheduled_tokens=sum(counts.values()),
        )

    def finish(self, name):
        self.finished.add(name)
        self.free += self.sequences.pop(name).blocks

    def metadata(self, counts):
        """CommonAttentionMetadata; the batch's order is the runner's own: short rows first."""
        order = sorted(counts, key=lambda name: counts[name])
        start, slots, table = [0], [], []
        for name in order:
            sequence, ratio = self.sequences[name], self.manager_block // self.kernel_block
            table.append([block * ratio + part for block in sequence.blocks for part in range(ratio)])
            for position in range(sequence.computed, sequence.computed + counts[name]):
                slots.append(
                    sequence.blocks[position // self.manager_block] * self.manager_block + position % self.manager_block
                )
            start.append(len(slots))
        widest = max(map(len, table))
        return order, SimpleNamespace(
            num_reqs=len(order),
            num_actual_tokens=start[-1],
            query_start_loc_cpu=torch.tensor(start),
            query_start_loc=torch.tensor(start),
            slot_mapping=torch.tensor(slots + [-1] * self.padding),
            seq_lens=torch.tensor([self.sequences[name].computed + counts[name] for name in order]),
            block_table_tensor=torch.tensor([row + [0] * (widest - len(row)) for row in table]),
        )

    def execute(self, output):
        counts = output.num_scheduled_tokens
        if not counts:
            return
        order, common = self.metadata(counts)
        metadata = [builder.build(0, common) for builder in self.builders][0]
        tokens, positions = [], []
        for name in order:
            sequence = self.sequences[name]
            rows = range(sequence.computed, sequence.computed + counts[name])
            tokens += [sequence.tokens[position] for position in rows]
            positions += rows
            sequence.computed += counts[name]
        padded = [0] * self.padding
        self.model(
            input_ids=torch.tensor(tokens + padded), positions=torch.tensor(positions + padded), metadata=metadata
        )

    def warm_up(self):
        """A dummy run: no scheduler output, metadata for rows of nobody."""
        common = SimpleNamespace(
            num_reqs=1,
            num_actual_tokens=2,
            query_start_loc_cpu=torch.tensor([0, 2]),
            slot_mapping=torch.tensor([-1, -1]),
            seq_lens=torch.tensor([2]),
            block_table_tensor=torch.zeros(1, 4, dtype=torch.long),
        )
        metadata = [builder.build(0, common) for builder in self.builders][0]
        self.model(
            input_ids=torch.zeros(2, dtype=torch.long), positions=torch.zeros(2, dtype=torch.long), metadata=metadata
        )
        self.model(input_ids=torch.zeros(2, dtype=torch.long), positions=torch.zeros(2, dtype=torch.long))


def config(model, geometry, **changes):
    """VllmConfig, as far as it is read."""
    return SimpleNamespace(
        model_config=SimpleNamespace(
            model="fake/model",
            tokenizer=changes.get("tokenizer"),
            tokenizer_revision=None,
            trust_remote_code=False,
            hf_text_config=SimpleNamespace(
                num_attention_heads=geometry.query_heads,
                num_key_value_heads=geometry.kv_heads,
                hidden_size=geometry.hidden,
                vocab_size=geometry.vocabulary,
            ),
        ),
        compilation_config=SimpleNamespace(static_forward_context={a.layer_name: a for a in model.attentions}),
        parallel_config=SimpleNamespace(pipeline_parallel_size=changes.get("pipeline", 1), data_parallel_size=1),
        cache_config=SimpleNamespace(enable_prefix_caching=changes.get("prefix_caching", False)),
        speculative_config=changes.get("speculative"),
    )
