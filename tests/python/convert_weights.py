"""Writes safetensors files with its own writer and checks what policies/convert_weights.py makes of them. Used by
convert_weights_test.cpp.

    convert_weights.py CONVERTER       runs all checks in the working directory
"""
import json
import os
import struct
import subprocess
import sys

import h5py
import numpy as np


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, bytes)"""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def pattern(shape, seed):
    return ((np.arange(np.prod(shape)) * 37 + seed * 11) % 127 - 63).astype(np.float32).reshape(shape) / 32


def raw(values, dtype):
    if dtype == "BF16":
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).tobytes()


def tensor(values, dtype):
    return dtype, list(values.shape), raw(values, dtype)


def read(dataset):
    if dataset.dtype.kind == "f" and dataset.dtype.itemsize >= 2 and dataset.id.get_type().get_fields()[2] != 8:
        return dataset[...].astype(np.float32)
    if dataset.id.get_type().get_size() == 4:
        return dataset[...]
    bits = np.empty(dataset.shape, np.uint16)
    dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, bits, dataset.id.get_type())
    return (bits.astype(np.uint32) << 16).view(np.float32)


def main(converter):
    def convert(*arguments):
        return subprocess.run([sys.executable, converter, *arguments], capture_output=True, text=True)

    def expect(result, text):
        assert result.returncode == 0, result.stderr
        assert text in result.stdout, result.stdout

    def refuse(result, text):
        assert result.returncode != 0
        assert text in result.stderr and "Traceback" not in result.stderr, result.stderr

    for name in os.listdir("."):
        if name.endswith((".h5", ".safetensors")):
            os.remove(name)

    # LU-KV's curves: one array, whatever its precision.
    curves = np.linspace(0, 1, 99 * 2 * 3).reshape(99, 2, 3)
    np.save("curves.npy", curves)
    expect(convert("lukv", "curves.h5", "curves.npy", "--group", "/lukv"), "layers 0 to 1 (2), 3 KV heads each")
    with h5py.File("curves.h5") as file:
        assert file["/lukv/prune_ratios"].dtype == np.float32
        assert np.array_equal(file["/lukv/prune_ratios"][...], curves.astype(np.float32))
    refuse(convert("lukv", "curves.h5", "curves.npy", "--group", "/lukv"), "there already")
    np.save("flat.npy", curves[0])
    refuse(convert("lukv", "flat.h5", "flat.npy"), "[99, layers, KV heads]")
    refuse(convert("lukv", "flat.h5", converter), "not a numpy file")

    # Two shards, four types, a tied module stored once, tensors of the model itself.
    first, second = pattern((6, 8), 1), pattern((2, 5), 2)
    bias, shared = pattern((6,), 3), pattern((2, 4), 4)
    write_safetensors("a.safetensors", {
        "model.layers.0.self_attn.retention_gate.linear1.weight": tensor(first, "BF16"),
        "model.layers.0.self_attn.retention_gate.linear1.bias": tensor(bias, "F32"),
        "model.layers.0.self_attn.q_proj.weight": tensor(first, "F16"),
    })
    write_safetensors("b.safetensors", {
        "model.layers.11.self_attn.retention_gate.linear2.weight": tensor(second, "F16"),
        "model.layers.11.self_attn.retention_gate.linear3.weight": tensor(shared, "F64"),
    })
    expect(convert("dbtrimkv", "gates.h5", "a.safetensors", "b.safetensors", "--group", "/gates", "--attribute",
                   "activation=silu"), "layers 0 to 11 (2), 1 other tensors left out")
    with h5py.File("gates.h5") as file:
        gates = file["gates"]
        assert gates.attrs["activation"] == "silu"
        assert np.array_equal(read(gates["layer_000/linear1.weight"]), first)
        assert gates["layer_000/linear1.weight"].id.get_type().get_fields() == (15, 7, 8, 0, 7)
        assert np.array_equal(read(gates["layer_000/linear1.bias"]), bias)
        assert np.array_equal(read(gates["layer_011/linear2.weight"]), second)
        assert np.array_equal(read(gates["linear3.weight"]), shared)
        assert sorted(gates) == ["layer_000", "layer_011", "linear3.weight"]

    # Every other system by its authors' names, and a pattern of one's own.
    values = pattern((2, 3), 5)
    for system, name, place in (
            ("trimkv", "model.layers.2.self_attn.retention_gate.gate_proj.weight", "layer_002/gate_proj.weight"),
            ("trimkv", "model.layers.2.self_attn.retention_gate.bias", "layer_002/bias"),
            ("foresightkv", "model.layers.7.self_attn.judge_model.fc1.weight", "layer_007/fc1.weight"),
            ("kvzap", "module_list.3.0.weight", "layer_003/0.weight"),
            ("kvzap", "layers.3.bias", "layer_003/bias"),
            ("fastkvzip", "35.k_base", "layer_035/k_base"),
            ("locret", "model.layers.1.self_attn.fc2.weight", "layer_001/fc2.weight"),
            (r"^agent_(?P<layer>\d+)/(?P<name>.*)$", "agent_4/fc1.bias", "layer_004/fc1.bias")):
        write_safetensors("one.safetensors", {name: tensor(values, "F32")})
        if os.path.exists("one.h5"):
            os.remove("one.h5")
        expect(convert(system, "one.h5", "one.safetensors"), "(1)")
        with h5py.File("one.h5") as file:
            assert np.array_equal(file[place][...], values), (system, place)

    refuse(convert("locret", "one.h5", "one.safetensors"), "no tensor of a layer matches")
    refuse(convert(r"agent_(?P<layer>\d+)/(?P<name>.*)$", "one.h5", "one.safetensors"), "written twice")
    refuse(convert("unknown", "one.h5", "one.safetensors"), "must be one of trimkv")
    with open("short.safetensors", "wb") as file:
        file.write(struct.pack("<Q", 1 << 40) + b"{}")
    refuse(convert("locret", "one.h5", "short.safetensors"), "not a safetensors file")
    write_safetensors("int.safetensors", {"model.layers.1.self_attn.fc2.weight": ("I32", [1], b"\0\0\0\0")})
    refuse(convert("locret", "one.h5", "int.safetensors"), "is I32")


if __name__ == "__main__":
    main(sys.argv[1])
