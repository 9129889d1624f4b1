"""Recording a Hugging Face transformers model: the adapter behind evictsim.capture.

The model's attention function is replaced by one that records q, k and v and then calls the model's own; together with
its mask function, under one name, since a name without a mask function loses the causal mask. Hooks record the residual
stream and the output distribution. Nothing that the model computes is changed.
"""

import contextlib
import functools
import inspect
import warnings
import weakref

import torch

from evictsim.attention_functions import own_function, register
from evictsim.distributions import reduce_rows
from evictsim.model_facts import LogitRule, find_modules, model_record, weights
from evictsim.sink import CaptureError, Sink
from evictsim.token_rows import Batches, new_entries, real_tokens
from evictsim.token_texts import token_texts

_CHUNK = 256  # rows whose logits are held at once
_LOGIT_CHANNELS = {"entropy", "entropy_top", "logprob"}
_STREAM_CHANNELS = {"step_norm", "cos_final", "cos_attention", "residual_norm", "final_norm_input"}

_captures = weakref.WeakKeyDictionary()  # attention module -> capture


@functools.lru_cache(maxsize=None)
def _register(base):
    """A name for `base` with recording. It stays registered; for a model without a capture it is `base`."""

    @torch.compiler.disable
    def attention(module, query, key, value, attention_mask, *args, **kwargs):
        capture = _captures.get(module)
        if capture is not None:
            capture._record_attention(module, query, key, value, kwargs)
        return own_function(module, base)(module, query, key, value, attention_mask, *args, **kwargs)

    return register("evictsim_" + base, base, attention)


def _recording(method):
    """A hook body: not compiled, and under on_error="stop" the end of the capture instead of the model's."""

    @torch.compiler.disable
    @functools.wraps(method)
    def hook(self, *args):
        if self.stopped is not None:
            return
        try:
            method(self, *args)
        except CaptureError as error:
            if self._on_error == "raise":
                raise
            self.stopped = error
            warnings.warn(f"evictsim: the capture has stopped: {error}", RuntimeWarning, stacklevel=2)

    return hook


class Capture:
    """Records every forward pass of `model` inside a `with` block into `directory`.

    `options`: those of the sink (docs/capture.md): layers, q_rows, x, channels, dtype, every, ... Beside them
    - `end_tokens`: token ids that end a sequence of a batch; the model's own by default,
    - `on_error`: "raise" an error of the capture out of the model's call, or "stop" the capture with a warning,
    - `unembedding`: also record the output embedding,
    - `tokenizer`: the model's; under store_text=True every token is then stored with its text,
    - `sensitivity`: of the model's layers, as evictsim.sensitivity measures it, to be part of the trace.
    """

    def __init__(
        self,
        model,
        directory,
        *,
        end_tokens=None,
        on_error="raise",
        unembedding=False,
        tokenizer=None,
        sensitivity=None,
        **options,
    ):
        if on_error not in ("raise", "stop"):
            raise CaptureError('on_error must be "raise" or "stop"')
        self._model, self._directory, self._options = model, directory, options
        self._on_error, self._unembedding, self._sensitivity = on_error, unembedding, sensitivity
        self._tokenizer = tokenizer
        if end_tokens is None:
            end_tokens = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        self._end_tokens = {end_tokens} if isinstance(end_tokens, int) else set(end_tokens or ())
        self.stopped = None  # the error that ended the capture, under on_error="stop"
        self.counters = None  # of the sink, once the capture is closed

    def next_requests(self, names, *, prompt_lengths=None, tasks=None, texts=None, spans=None):
        """Names the sequences of the next batch that begins. Lists with one entry each: `prompt_lengths` where a prompt
        comes in several calls of the model itself (generate says it by itself), `tasks`, `texts` (stored only under
        store_text=True), `spans` as lists of (kind, first token, end token)."""
        for given in (prompt_lengths, tasks, texts, spans):
            if given is not None and len(given) != len(names):
                raise CaptureError(f"{len(names)} names and {len(given)} descriptions were given")
        self._batches.name_next(names, prompt_lengths)
        for index, name in enumerate(names):
            chosen = [None if given is None else given[index] for given in (tasks, texts, spans)]
            if any(value is not None for value in chosen):
                self._sink.describe_request(name, task=chosen[0], text=chosen[1], spans=chosen[2] or ())

    # Beginning and end.

    def __enter__(self):
        self._batches = Batches()
        self._step_batch = self._hidden = self._prompts = None
        self._in_root, self._logits_differ = False, False
        self._last = {}  # request -> logits of its last row, whose next token is not known yet
        with contextlib.ExitStack() as undo:
            modules = self._modules = find_modules(self._model)
            if any(attention in _captures for attention in modules.attentions):
                raise CaptureError("the model is being captured already")
            record = model_record(self._model, modules)
            if self._sensitivity is not None:
                record.update(self._sensitivity.record())
            self._sink = Sink(self._directory, **self._options)
            undo.callback(self._close)
            self._sink.model(**record)
            for array, name, layer in weights(modules, "norm_kind" in record, self._unembedding):
                self._sink.weight(array, name, layer)
            if self._tokenizer is not None:
                self._sink.vocabulary(token_texts(self._tokenizer, record["vocab_size"]))
            self._install(modules, undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, kind, error, traceback):
        try:
            self._undo.close()
        except CaptureError:
            if kind is None:  # else the error that ended the block says more
                raise

    def _close(self):
        try:
            if self.stopped is None:
                self._finish(self._batches.end_all())
                self._sink.flush()
            self.counters = self._sink.counters()
        finally:
            self._last.clear()
            try:
                self._sink.close()
            except CaptureError:
                if self.stopped is None:
                    raise

    def _wanted(self):
        """Captured layers and channels, as the options name them."""
        layers = self._options.get("layers")
        if layers is None:
            layers = range(len(self._modules.layers))
        elif isinstance(layers, str):
            spans = [part.split("-") for part in layers.split(",")]
            layers = [layer for span in spans for layer in range(int(span[0]), int(span[-1]) + 1)]
        channels = self._options.get("channels")
        if channels is None:
            channels = (_LOGIT_CHANNELS | _STREAM_CHANNELS) - {"cos_final"}
        else:
            channels = set(channels.split(",") if isinstance(channels, str) else channels)
            if "all" in channels:
                channels = _LOGIT_CHANNELS | _STREAM_CHANNELS
        return [int(layer) for layer in layers], channels

    def _install(self, modules, undo):
        model, layers = self._model, modules.layers
        captured, channels = self._wanted()

        def hook(register, function, **options):
            undo.callback(register(function, **options).remove)

        base = model.config._attn_implementation
        undo.callback(model.set_attn_implementation, base)
        model.set_attn_implementation(_register(base))
        for layer in captured:
            undo.callback(_captures.pop, modules.attentions[layer], None)
            _captures[modules.attentions[layer]] = self

        self._signature = inspect.signature(modules.decoder.forward)
        hook(modules.decoder.register_forward_pre_hook, self._begin, with_kwargs=True)
        hook(modules.decoder.register_forward_hook, self._after_decoder, always_call=True)
        if modules.decoder is not model:
            hook(model.register_forward_pre_hook, self._enter_root)
            hook(model.register_forward_hook, self._after_root, always_call=True)
        if self._options.get("x") or channels & _STREAM_CHANNELS:
            streams = sorted(set(captured) | {layer + 1 for layer in captured} | {len(layers)})
            for index in streams:
                module = layers[index] if index < len(layers) else modules.decoder.norm
                hook(
                    module.register_forward_pre_hook, functools.partial(self._push_input, "x", index), with_kwargs=True
                )
        for index in captured if "cos_attention" in channels else ():
            # The norm behind the attention block reads the residual stream there, where a layer has such a norm.
            norm = getattr(
                layers[index], "pre_feedforward_layernorm", getattr(layers[index], "post_attention_layernorm", None)
            )
            if norm is not None:
                hook(
                    norm.register_forward_pre_hook,
                    functools.partial(self._push_input, "after_attention", index),
                    with_kwargs=True,
                )
        self._rule = LogitRule(modules.head, model.config) if modules.head is not None else None
        self._wants_logits = bool(channels & _LOGIT_CHANNELS) and self._rule is not None
        if hasattr(model, "generate"):
            generate = model.generate

            @functools.wraps(generate)
            def with_prompts(inputs=None, *args, **kwargs):
                ids = inputs if inputs is not None else kwargs.get("input_ids")
                if self.stopped is None and isinstance(ids, torch.Tensor) and ids.ndim == 2:
                    self._prompts = (ids.shape[1], kwargs.get("attention_mask"))
                try:
                    return generate(inputs, *args, **kwargs)
                finally:
                    self._prompts = None

            model.generate = with_prompts
            undo.callback(model.__dict__.pop, "generate", None)

    # The hooks, in the order of a forward pass.

    def _enter_root(self, module, args):
        self._in_root = True

    @_recording
    def _begin(self, module, args, kwargs):
        given = self._signature.bind_partial(*args, **kwargs).arguments
        given = {**given, **given.get("kwargs", {})}
        ids, cache = given.get("input_ids"), given.get("past_key_values")
        if ids is None:
            raise CaptureError("a step without input_ids is not recorded: a trace holds its tokens")
        batch, count = ids.shape
        entries = int(cache.get_seq_length()) if cache is not None else 0
        real = real_tokens(given.get("attention_mask"), entries, batch, count)
        positions = given.get("position_ids")
        if positions is not None:
            if positions.ndim != 2:
                raise CaptureError("positions of several axes are not recorded")
            positions = positions.expand(batch, count).tolist()
        is_new = cache is None or entries == 0
        lengths = self._prompt_lengths(real, count) if is_new else None
        current, over = self._batches.find(cache, entries, batch, lengths)
        if cache is not None:
            self._watch(cache)
        rows, ended = current.rows(real, ids.tolist(), positions, self._end_tokens)
        self._finish(over + ended)
        self._sink.begin_step(rows)
        self._step_batch, self._rows, self._entries, self._count = current, rows, entries, count
        self._ids, self._alone = ids, cache is None

    def _prompt_lengths(self, real, count):
        """Tokens of each prompt, where generate was told them and this is not all of them."""
        if self._prompts is None:
            return None
        total, mask = self._prompts
        if mask is None or mask.ndim != 2:
            return [total - count + tokens for tokens in real.sum(-1).tolist()]
        # Several sequences may be asked for of each prompt.
        return mask.ne(0).sum(-1).repeat_interleave(len(real) // len(mask)).tolist()

    def _stream(self, tensor):
        return torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else None

    def _push(self, tensor, role, layer=0):
        tensor = tensor.detach()
        self._sink.push(tensor, role, layer, self._stream(tensor))

    @_recording
    def _push_input(self, role, layer, module, args, kwargs):
        if self._step_batch is not None:
            self._push(args[0] if args else kwargs["hidden_states"], role, layer)

    @_recording
    def _record_attention(self, module, query, key, value, kwargs):
        if self._step_batch is None:
            raise CaptureError("the attention block was called outside of the decoder")
        for name in ("s_aux", "position_bias"):
            if kwargs.get(name) is not None:
                raise CaptureError(f"attention with {name} cannot be given back from q, k and v")
        if value.shape[-1] != key.shape[-1] or query.shape[2] != self._count:
            raise CaptureError("keys and values of different width, or queries of other rows, are not recorded")
        key = new_entries(key, self._entries, self._count)
        value = new_entries(value, self._entries, self._count)
        for tensor, role in ((query, "q"), (key, "k"), (value, "v")):
            self._push(tensor.transpose(1, 2), role, module.layer_idx)

    @_recording
    def _after_decoder(self, module, args, output):
        if self._step_batch is None:
            return
        self._hidden = None if output is None else output[0]
        cache = getattr(output, "past_key_values", None)
        if self._alone and cache is not None:  # the model has made it
            self._alone = False
            self._batches.adopt(cache, self._step_batch)
            self._watch(cache)
        if output is None:  # the model has failed; what it was about to say is lost
            with contextlib.suppress(CaptureError):
                self._end()
        elif not self._in_root:
            self._end()

    @_recording
    def _after_root(self, module, args, output):
        self._in_root = False
        if self._step_batch is None:
            return
        logits = getattr(output, "logits", None)
        if self._wants_logits and not self._logits_differ and logits is not None:
            self._record_distributions(logits)
        self._end()

    def _record_distributions(self, logits):
        """Of every row. generate asks for the last row's logits only; the others come from the decoder's output here,
        a few rows at a time, after a look whether the last row comes out as the model's."""
        batch, count = self._hidden.shape[:2]
        whole = logits.shape[1] == count
        if not whole:
            last, own = logits[:, -1].float(), self._rule(self._hidden[:, -1].detach()).float()
            if (last - own).abs().max() > 0.02 * last.abs().max():
                self._logits_differ = True
                warnings.warn(
                    "evictsim: entropy is left out: this model's logits are not what its output embedding "
                    "gives; call it without generate to have logits of every row",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return
        device = logits.device
        entropy, tops = torch.zeros(batch, count, device=device), torch.zeros(batch, count, 3, device=device)
        log_p = torch.zeros(batch, count, device=device)
        for row in self._rows:
            index, first = divmod(row.first_row, count)
            places = range(first, first + len(row.token_ids))
            tokens = self._ids[index, first : first + len(row.token_ids)].to(device)
            carried = self._last.pop(row.request_id, None)
            if carried is not None:
                log_p[index, first] = reduce_rows(carried[None], tokens[:1])[2][0]
            for start in range(places.start, places.stop, _CHUNK):
                stop = min(start + _CHUNK, places.stop)
                part = logits[index, start:stop] if whole else self._rule(self._hidden[index, start:stop].detach())
                part = part.detach()
                following = tokens[start - first + 1 : stop - first + 1]
                padded = torch.nn.functional.pad(following, (0, stop - start - len(following)))
                entropy[index, start:stop], tops[index, start:stop], next_log_p = reduce_rows(part, padded)
                log_p[index, start + 1 : start + 1 + len(following)] = next_log_p[: len(following)]
            self._last[row.request_id] = part[-1].clone()
        self._push(entropy, "entropy")
        self._push(tops, "entropy_top")
        self._push(log_p, "logprob")

    def _watch(self, cache):
        if "reorder_cache" not in cache.__dict__:
            reference = weakref.ref(cache)
            cache.reorder_cache = functools.partial(self._reorder, reference)
            self._undo.callback(_allow_reordering, reference)

    def _reorder(self, cache, *args, **kwargs):
        """Stands in for the cache's own reorder_cache, which it still does."""
        self._refuse_reordering()
        return type(cache()).reorder_cache(cache(), *args, **kwargs)

    @_recording
    def _refuse_reordering(self):
        raise CaptureError(
            "beam search reorders its cache, so rows are no longer those of one request; it is not recorded"
        )

    def _end(self):
        batch, self._step_batch, self._hidden = self._step_batch, None, None
        self._sink.end_step()
        if self._alone:
            self._finish(batch.names)

    def _finish(self, names):
        for name in names:
            self._last.pop(name, None)
            self._sink.finish_request(name)


def _allow_reordering(cache):
    if cache() is not None:
        cache().__dict__.pop("reorder_cache", None)
