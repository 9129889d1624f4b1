"""The plug-in that records a vLLM v1 server; docs/capture.md, "From vLLM". vLLM calls `register` in every process.

The attention backend is replaced by a subclass that records q, k and v of every layer and goes on as before. vLLM is
imported here only once a capture is asked for.
"""

import atexit
import functools
import logging
import os

from evictsim.sink import CaptureError, Sink
from evictsim.vllm_rows import RequestTable, map_rows, read_step

logger = logging.getLogger("evictsim")

_capture = None  # of this process


def register():
    """Entry point `vllm.general_plugins`. Does nothing unless EVICTSIM_CAPTURE_DIRECTORY is set; may be called
    again."""
    global _capture
    directory = os.environ.get("EVICTSIM_CAPTURE_DIRECTORY")
    if not directory or _capture is not None:
        return
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
    from vllm.v1.worker.gpu_worker import Worker

    _capture = EngineCapture(
        directory,
        _options(os.environ.get("EVICTSIM_CAPTURE_OPTIONS", "")),
        os.environ.get("EVICTSIM_CAPTURE_ON_ERROR", "stop"),
    )
    register_backend(AttentionBackendEnum[backend_name()], "evictsim.vllm_backend.CaptureBackend")
    _wrap(Worker, "load_model", after=_capture.loaded)
    _wrap(Worker, "initialize_from_config", after=_capture.cache_made)
    _wrap(Worker, "execute_model", before=_capture.step_scheduled, after=_capture.step_done)
    _wrap(Worker, "shutdown", before=_capture.close)
    atexit.register(_capture.close)


def capture():
    """The capture of this process."""
    return _capture


def backend_name() -> str:
    """The attention backend that is replaced."""
    return os.environ.get("EVICTSIM_CAPTURE_BACKEND", "FLASH_ATTN")


def _options(text):
    """name=value, separated by semicolons."""
    options = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, separator, value = part.partition("=")
        if not separator:
            raise CaptureError(f"EVICTSIM_CAPTURE_OPTIONS: {part!r} must be name=value; separate options by semicolons")
        options[name.strip()] = value.strip()
    return options


def _wrap(owner, name, before=None, after=None):
    """Lets `before(self, *args)` and `after(self, *args)` run around a method."""
    method = getattr(owner, name, None)
    if method is None:  # not every version has every one
        return

    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        if before is not None:
            before(self, *args, **kwargs)
        result = method(self, *args, **kwargs)
        if after is not None:
            after(self, *args, **kwargs)
        return result

    setattr(owner, name, wrapped)


def _guarded(method):
    """An error of the capture ends the capture, not the server, unless told otherwise."""

    @functools.wraps(method)
    def guarded(self, *args, **kwargs):
        if self.stopped is not None:
            return
        try:
            method(self, *args, **kwargs)
        except CaptureError as error:
            self.stopped = error
            if self._on_error == "raise":
                raise
            logger.error("the capture has stopped: %s", error)

    return guarded


class EngineCapture:
    """What one worker process records."""

    def __init__(self, directory, options, on_error):
        if on_error not in ("stop", "raise"):
            raise CaptureError(f'EVICTSIM_CAPTURE_ON_ERROR is {on_error!r}; it must be "stop" or "raise"')
        self._directory, self._options, self._on_error = directory, options, on_error
        self._sink = self._ranges = self._groups = None
        self._table, self._scheduled, self._open = RequestTable(), False, False
        self.stopped = None

    @_guarded
    def loaded(self, worker, *args, **kwargs):
        """The model is there: opens the capture and hands over the model's facts."""
        from vllm import __version__
        from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size

        from evictsim import vllm_facts

        config = worker.vllm_config
        parallel = config.parallel_config
        for refused, what in (
            (parallel.pipeline_parallel_size > 1, "pipeline parallelism"),
            (getattr(parallel, "decode_context_parallel_size", 1) > 1, "decode context parallelism"),
            (config.speculative_config is not None, "speculative decoding"),
        ):
            if refused:
                raise CaptureError(f"{what} is not recorded; turn it off for the capture")
        if config.cache_config.enable_prefix_caching:
            logger.warning(
                "requests that begin with a cached prefix are not recorded; turn prefix caching off to have all of them"
            )
        rank, ranks = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
        model = worker.get_model()
        record, layers = vllm_facts.model_record(config, model, rank, ranks, __version__)
        name = f"rank-{rank}"
        if getattr(parallel, "data_parallel_size", 1) > 1:
            name = f"engine-{parallel.data_parallel_rank}-{name}"
        os.makedirs(self._directory, exist_ok=True)
        self._sink = Sink(os.path.join(self._directory, name), **self._options)
        self._sink.model(**record)
        for array, kind, layer in vllm_facts.weights(layers, "norm_kind" in record):
            self._sink.weight(array, kind, layer)
        if self._options.get("store_text") == "1":
            self._sink.vocabulary(vllm_facts.texts_of_tokens(config.model_config, record["vocab_size"]))
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end, always_call=True)

    @_guarded
    def cache_made(self, worker, kv_cache_config, *args, **kwargs):
        """Block sizes as the scheduler counts, by layer name."""
        self._groups = {
            name: group.kv_cache_spec.block_size
            for group in kv_cache_config.kv_cache_groups
            for name in group.layer_names
        }

    @_guarded
    def step_scheduled(self, worker, scheduler_output, *args, **kwargs):
        if self._sink is None:
            return
        for name in self._table.update(scheduler_output):
            self._sink.finish_request(name)
        self._scheduled, self._ranges = scheduler_output.total_num_scheduled_tokens > 0, None

    @_guarded
    def metadata_built(self, builder, common):
        """The rows of a step, once: every group of layers builds its own metadata of the same rows."""
        if not self._scheduled or self._ranges is not None or self._groups is None:
            return  # a warm-up or a draft
        kernel_block = builder.kv_cache_spec.block_size
        manager_block = self._groups.get(builder.layer_names[0], kernel_block)
        self._ranges = map_rows(read_step(common, kernel_block, manager_block), self._table)

    @_guarded
    def _begin(self, module, args, kwargs):
        if not self._ranges:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise CaptureError("the model is given embeddings instead of tokens, which a trace cannot hold")
        tokens = ids.tolist()
        self._sink.begin_step([entry.rows(tokens) for entry in self._ranges])
        self._open = True

    @_guarded
    def attention(self, layer, query, key, value):
        """Rows are flattened, [rows, heads, width], perhaps with padding behind."""
        if not self._open:
            return
        import torch

        from evictsim.vllm_facts import layer_index

        stream = torch.cuda.current_stream(query.device).cuda_stream if query.is_cuda else None
        index = layer_index(layer.layer_name)
        for tensor, role, heads in (
            (query, "q", layer.num_heads),
            (key, "k", layer.num_kv_heads),
            (value, "v", layer.num_kv_heads),
        ):
            if tensor is None or tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
                raise CaptureError(
                    f"{layer.layer_name}: {role} is {'absent' if tensor is None else tensor.dtype}; turn "
                    "off fused or quantised attention inputs for the capture"
                )
            self._sink.push(tensor.detach().reshape(-1, heads, layer.head_size), role, index, stream)

    @_guarded
    def _end(self, module, args, output):
        if self._open:
            self._open = False
            self._sink.end_step()

    @_guarded
    def step_done(self, *args, **kwargs):
        if self._scheduled and self._ranges is None and self._sink is not None:
            raise CaptureError(
                f"no attention metadata was built by {backend_name()}; name the backend that the server "
                "uses in EVICTSIM_CAPTURE_BACKEND"
            )
        self._scheduled, self._ranges = False, None

    def close(self, *args, **kwargs):
        """Seals what is there."""
        if self._sink is None:
            return
        sink, self._sink = self._sink, None
        try:
            sink.close()
        except CaptureError as error:
            logger.error("closing the capture: %s", error)
