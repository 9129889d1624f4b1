#!/usr/bin/env python3
"""Converts the weights of a learned policy from safetensors to the HDF5 file of docs/weights.md.

    convert_weights.py SYSTEM OUTPUT.h5 FILE.safetensors... [--group NAME] [--attribute KEY=VALUE]...

SYSTEM is one of trimkv, dbtrimkv, foresightkv, kvzap, fastkvzip, locret, or a regular expression of its own: one group
named `layer`, the layer's number, and one named `name`, the tensor's name inside the layer; without `layer` the tensor
is shared by all layers. Tensors that do not match are left out, and counted. Needs numpy and h5py, not torch.

    convert_weights.py lukv OUTPUT.h5 FILE.npy [--group NAME]

takes LU-KV's curves, a numpy array [99, layers, KV heads] of the share that each head loses, 1 % to 99 % removed.
"""
import argparse
import json
import re
import struct
import sys

import h5py
import numpy as np

# Names in the authors' state dicts. Layers are numbered as in the model.
LAYER = r"(?:^|\.)layers\.(?P<layer>\d+)\.(?:.*\.)?"
PATTERNS = {
    "trimkv": [LAYER + r"retention_gate\.(?P<name>(?:linear\d|gate_proj|up_proj|down_proj)\.(?:weight|bias)|bias)$"],
    "dbtrimkv": [LAYER + r"retention_gate\.(?P<name>(?:linear\d|gate_proj|up_proj|down_proj)\.(?:weight|bias)|bias)$"],
    "foresightkv": [LAYER + r"judge_model\.(?P<name>fc[12]\.(?:weight|bias))$"],
    "kvzap": [r"(?:^|\.)(?:module_list|layers)\.(?P<layer>\d+)\.(?P<name>(?:[02]\.)?(?:weight|bias))$"],
    "fastkvzip": [
        r"(?:^|\.)(?P<layer>\d+)\.(?P<name>[qk]_proj\.(?:weight|bias)|[qk]_norm\.weight|k_base|b)$"
    ],
    "locret": [LAYER + r"(?P<name>fc[12]\.(?:weight|bias))$"],
}

# Modules that a system ties over all layers; safetensors stores such a tensor once, under one layer's name.
TIED = {"dbtrimkv": ["linear3.weight", "bias"]}

# As stored; bfloat16 is read as its bits.
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read_safetensors(path):
    """Yields (name, kind, array); bfloat16 arrays hold the bits."""
    with open(path, "rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise SystemExit(f"{path}: not a safetensors file (shorter than its header)")
        (length,) = struct.unpack("<Q", prefix)
        size = file.seek(0, 2)
        if length > size - 8:
            raise SystemExit(f"{path}: not a safetensors file (its header would be longer than the file)")
        file.seek(8)
        header = json.loads(file.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in TYPES:
                raise SystemExit(f"{path}: {name} is {entry['dtype']}; taken are {', '.join(TYPES)}")
            begin, end = entry["data_offsets"]
            file.seek(8 + length + begin)
            data = np.frombuffer(file.read(end - begin), TYPES[entry["dtype"]])
            if data.size != int(np.prod(entry["shape"], dtype=np.int64)):
                raise SystemExit(f"{path}: {name} is cut short")
            yield name, entry["dtype"], data.reshape(entry["shape"])


def bfloat16():
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    return kind


def write_tensor(group, name, kind, values):
    if kind == "F64":
        kind, values = "F32", values.astype("<f4")
    if kind != "BF16":
        group.create_dataset(name, data=values)
        return
    stored = bfloat16()
    space = h5py.h5s.create_simple(values.shape)
    dataset = h5py.h5d.create(group.id, name.encode(), stored, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values), stored)


def write_prune_ratios(arguments):
    if len(arguments.inputs) != 1:
        raise SystemExit("lukv takes one file of curves")
    path = arguments.inputs[0]
    try:
        curves = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: not a numpy file ({error})") from None
    if getattr(curves, "ndim", 0) != 3 or curves.shape[0] != 99 or curves.dtype.kind != "f":
        raise SystemExit(f"{path}: must be an array of floating-point numbers [99, layers, KV heads]")
    with h5py.File(arguments.output, "a") as file:
        group = file.require_group(arguments.group)
        if "prune_ratios" in group:
            raise SystemExit(f"{arguments.output}: prune_ratios is there already")
        group.create_dataset("prune_ratios", data=curves.astype("<f4"))
    print(f"{arguments.output}: layers 0 to {curves.shape[1] - 1} ({curves.shape[1]}), {curves.shape[2]} KV heads each")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system")
    parser.add_argument("output")
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--group", default="/", help="group to write into; a file that exists is added to")
    parser.add_argument("--attribute", action="append", default=[], help="such as activation=silu")
    arguments = parser.parse_args()

    if arguments.system == "lukv":
        write_prune_ratios(arguments)
        return
    patterns = [re.compile(text) for text in PATTERNS.get(arguments.system, [arguments.system])]
    if any("name" not in pattern.groupindex for pattern in patterns):
        raise SystemExit(f"SYSTEM must be one of {', '.join(PATTERNS)}, or a pattern with a group (?P<name>...)")
    layers, left_out = set(), 0
    with h5py.File(arguments.output, "a") as file:
        group = file.require_group(arguments.group)
        for path in arguments.inputs:
            for name, kind, values in read_safetensors(path):
                match = next((m for m in (pattern.search(name) for pattern in patterns) if m), None)
                if match is None:
                    left_out += 1
                    continue
                layer = match.groupdict().get("layer")
                target = group if layer is None else group.require_group(f"layer_{int(layer):03}")
                if layer is not None:
                    layers.add(int(layer))
                if match["name"] in target:
                    raise SystemExit(f"{path}: {name} would be written twice, as {target.name}/{match['name']}")
                write_tensor(target, match["name"], kind, values)
        for name in TIED.get(arguments.system, []):
            owners = [layer for layer in sorted(layers) if name in group[f"layer_{layer:03}"]]
            if len(owners) == 1 and len(layers) > 1:
                group.move(f"layer_{owners[0]:03}/{name}", name)
        for text in arguments.attribute:
            key, _, value = text.partition("=")
            group.attrs[key] = value
    if not layers:
        raise SystemExit("no tensor of a layer matches; the file holds none of these weights")
    print(f"{arguments.output}: layers {min(layers)} to {max(layers)} ({len(layers)}), {left_out} other tensors left out")


if __name__ == "__main__":
    sys.exit(main())
