#!/usr/bin/env python3
"""An engine in NumPy that records itself through plain ctypes: python3 numpy_engine.py libevictsim_capture.so out/"""
import ctypes
import sys

import numpy

LAYERS, QUERY_HEADS, KV_HEADS, WIDTH, HIDDEN, VOCABULARY = 2, 4, 2, 16, 64, 100
Q, K, V, W_O = 0, 1, 2, 0


class Tensor(ctypes.Structure):  # DLTensor: data, device, ndim, dtype, shape, strides, byte_offset
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


class Rows(ctypes.Structure):
    _fields_ = [("request_id", ctypes.c_char_p), ("first_row", ctypes.c_int64), ("count", ctypes.c_int64),
                ("first_position", ctypes.c_int32), ("prompt_length", ctypes.c_int32),
                ("token_ids", ctypes.POINTER(ctypes.c_int32))]


if len(sys.argv) != 3:
    sys.exit("usage: numpy_engine.py libevictsim_capture.so DIRECTORY")
library = ctypes.CDLL(sys.argv[1])
library.evictsim_capture_last_error.restype = ctypes.c_char_p
handle = ctypes.c_void_p()


def call(name, *arguments):
    if getattr(library, "evictsim_capture_" + name)(*arguments) != 0:
        sys.exit("numpy_engine: " + library.evictsim_capture_last_error().decode())


def hand_over(function, array, *arguments):
    """Any float16 or float32 array, with whatever strides it has; it is read before this returns."""
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    strides = (ctypes.c_int64 * array.ndim)(*(stride // array.itemsize for stride in array.strides))
    tensor = Tensor(array.ctypes.data, 1, 0, array.ndim, 2, 8 * array.itemsize, 1, shape, strides, 0)
    call(function, handle, ctypes.byref(tensor), *arguments)


def attend(q, k, v):
    """Causal attention of the last rows; q [heads, rows, width], k and v [KV heads, tokens, width]."""
    k, v = (numpy.repeat(x, QUERY_HEADS // KV_HEADS, axis=0) for x in (k, v))
    logits = q @ k.transpose(0, 2, 1) / numpy.sqrt(WIDTH)
    rows, tokens = logits.shape[1:]
    logits += numpy.where(numpy.arange(tokens) > numpy.arange(tokens - rows, tokens)[:, None], -numpy.inf, 0)
    weights = numpy.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)) @ v


random = numpy.random.default_rng(7)
weights = {name: [random.normal(0, 0.2, (HIDDEN, heads * WIDTH)) for _ in range(LAYERS)]
           for name, heads in (("q", QUERY_HEADS), ("k", KV_HEADS), ("v", KV_HEADS), ("o", QUERY_HEADS))}
embedding = random.normal(0, 1, (VOCABULARY, HIDDEN))
call("open", sys.argv[2].encode(), b"dtype=float32", ctypes.c_uint32(1 << 16), ctypes.byref(handle))
call("model", handle, f"""model=toy
engine=numpy
num_layers={LAYERS}
num_query_heads={QUERY_HEADS}
num_kv_heads={KV_HEADS}
head_dim={WIDTH}
hidden_size={HIDDEN}
vocab_size={VOCABULARY}
rope_layout=none""".encode())
for layer in range(LAYERS):
    hand_over("weight", weights["o"][layer].astype(numpy.float32), W_O, layer)

cache = [{"k": numpy.zeros((KV_HEADS, 0, WIDTH)), "v": numpy.zeros((KV_HEADS, 0, WIDTH))} for _ in range(LAYERS)]
tokens, position, prompt = [int(token) for token in random.integers(0, VOCABULARY, 20)], 0, 20
while position < prompt + 6:
    new = tokens[position:]
    ids = (ctypes.c_int32 * len(new))(*new)
    call("begin_step", handle, ctypes.byref(Rows(b"request 1", 0, len(new), position, prompt, ids)), ctypes.c_size_t(1))
    x = embedding[new]
    for layer in range(LAYERS):
        q, k, v = ((x @ weights[name][layer]).reshape(len(new), -1, WIDTH).transpose(1, 0, 2) for name in "qkv")
        for role, rows in ((Q, q), (K, k), (V, v)):  # heads lie in front of rows, so the views have odd strides
            hand_over("push", rows.astype(numpy.float32).transpose(1, 0, 2), role, layer, None)
        for name, rows in (("k", k), ("v", v)):
            cache[layer][name] = numpy.concatenate([cache[layer][name], rows], axis=1)
        output = attend(q, cache[layer]["k"], cache[layer]["v"]).transpose(1, 0, 2).reshape(len(new), -1)
        x = x + output @ weights["o"][layer].T
    call("end_step", handle)
    position += len(new)
    tokens.append(int((x[-1] @ embedding.T).argmax()))
call("finish_request", handle, b"request 1")
call("close", handle)
print("tokens", *tokens)
print("attention", *output[-1])
