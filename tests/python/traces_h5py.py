"""Writes a trace with h5py, or checks one that evictsim wrote. Used by traces_h5py_test.cpp.

    traces_h5py.py write FILE TYPE        TYPE: float16, bfloat16 or float32
    traces_h5py.py check FILE TYPE
"""
import sys

import h5py
import numpy as np

LENGTH, KV_HEADS, HEADS, WIDTH = 20, 2, 4, 8


def bfloat16_type():
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    return kind


def pattern(count, seed):
    return ((np.arange(count) * 37 + seed * 11) % 127 - 63).astype(np.float32) / 32


def write_tensor(group, name, values, kind, **options):
    if kind != "bfloat16":
        group.create_dataset(name, data=values.astype(kind), **options)
        return
    parts = name.split("/")
    for part in parts[:-1]:
        group = group.require_group(part)
    stored = bfloat16_type()
    dataset = h5py.h5d.create(group.id, parts[-1].encode(), stored, h5py.h5s.create_simple(values.shape))
    bits = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, bits, stored)


def write(path, kind):
    with h5py.File(path, "w") as file:
        attributes = file.attrs
        attributes["format"] = "evictsim-trace"
        attributes["format_version"] = 1
        attributes["model"] = np.bytes_("fixed length")
        attributes["engine"] = "h5py"
        attributes["engine_version"] = h5py.__version__
        attributes["created"] = "2026-01-01T00:00:00Z"
        for name, value in dict(num_layers=2, num_query_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=WIDTH,
                                hidden_size=12, vocab_size=50).items():
            attributes[name] = np.int16(value)
        attributes["attention_scale"] = np.float32(0.25)
        attributes["logit_softcap"] = 0  # an integer where a real number is meant
        attributes["rope_theta"] = 10000.0
        attributes["rope_attention_scaling"] = 1.0
        attributes["rope_layout"] = "half"
        attributes["capture_threads"] = 3
        file["model/layers"] = np.array([0, 1], np.int64)
        file["model/inv_freq"] = np.array([1, 0.5, 0.25, 0.125], np.float32)
        sequence = file.create_group("sequences/000000")
        sequence.attrs["prompt_length"] = np.uint8(16)
        sequence.attrs["length"] = LENGTH
        sequence["token_ids"] = (np.arange(LENGTH) % 50).astype(">u2")
        sequence["positions"] = np.arange(LENGTH)
        options = [dict(), dict(chunks=(7, 1, 3), compression="gzip", shuffle=True, fletcher32=True)]
        for layer in range(2):
            chosen = {} if kind == "bfloat16" else options[layer]
            for index, (name, heads) in enumerate((("k", KV_HEADS), ("v", KV_HEADS), ("q", HEADS))):
                values = pattern(LENGTH * heads * WIDTH, 10 * layer + index).reshape(LENGTH, heads, WIDTH)
                write_tensor(sequence, f"layer_{layer:03}/{name}", values, kind, **chosen)


def read_tensor(dataset, kind):
    if kind != "bfloat16":
        assert dataset.dtype == np.dtype(kind), dataset.dtype
        return dataset[...].astype(np.float32)
    stored = dataset.id.get_type()
    assert stored.get_fields() == (15, 7, 8, 0, 7) and stored.get_ebias() == 127
    bits = np.empty(dataset.shape, np.uint16)
    dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, bits, stored)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def check(path, kind):
    with h5py.File(path, "r") as file:
        assert file.attrs["format"] == "evictsim-trace"
        assert file.attrs["model"] == "small"
        assert file.attrs["format_version"] == 1
        assert file.attrs["attention_scale"] == 0.25
        assert list(file["model/layers"]) == [1, 3]
        assert list(file["model/inv_freq"]) == [1, 0.1, 0.01]
        sequence = file["sequences/000000"]
        assert sequence.attrs["length"] == 20 and sequence.attrs["text"] == "two\nlines"
        assert list(sequence["positions"]) == list(range(3, 23))
        assert sequence["spans/evidence"][...].tolist() == [[2, 5], [7, 8]]
        assert np.isnan(sequence["logprob"][0])
        for layer in (1, 3):
            k = read_tensor(sequence[f"layer_{layer:03}/k"], kind)
            assert np.array_equal(k, pattern(320, layer).reshape(20, 2, 8))
        assert list(sequence["layer_003/q_rows"]) == [4, 9, 16, 17, 18, 19]
        w_o = read_tensor(file["model/layer_001/w_o"], kind)
        assert np.array_equal(w_o, pattern(384, 1).reshape(12, 32))


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](sys.argv[2], sys.argv[3])
