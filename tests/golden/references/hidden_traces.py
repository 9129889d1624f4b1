"""Random traces that hold the layer input, small and unlike each other."""
import os

import h5py
import numpy as np

# name: captured layers, layers of the model, query heads, KV heads, d, D, prompt, length, and what else differs
TRACES = {
    "hidden-g2": dict(layers=[0, 1, 3], model=4, query=4, kv=2, d=8, width=20, prompt=44, length=56, first=5,
                      attributes=dict(rope_layout="half", norm_kind="rms", norm_epsilon=1e-5)),
    "hidden-g4": dict(layers=[0, 2], model=3, query=4, kv=1, d=6, width=12, prompt=13, length=24, first=0,
                      attributes=dict(rope_layout="interleaved", rotary_dim=4, rope_attention_scaling=1.25,
                                      norm_kind="rms_plus_one", norm_epsilon=1e-6)),
    "hidden-g1": dict(layers=[1], model=2, query=3, kv=3, d=8, width=16, prompt=30, length=38, first=100,
                      attributes=dict(rope_layout="half", norm_kind="layer", norm_epsilon=1e-6, logit_softcap=4.0)),
}


def write_trace(folder, name, seed):
    shape, draw = TRACES[name], np.random.RandomState(seed)
    length, rotary = shape["length"], shape["attributes"].get("rotary_dim", shape["d"])
    with h5py.File(os.path.join(folder, name + ".h5"), "w", libver=("v110", "v110")) as file:
        file.attrs.update(format="evictsim-trace", format_version=1, model="random numbers", engine="numpy",
                          engine_version="1", created="2026-11-23T00:00:00Z", num_layers=shape["model"],
                          num_query_heads=shape["query"], num_kv_heads=shape["kv"], head_dim=shape["d"],
                          hidden_size=shape["width"], vocab_size=50, attention_scale=0.5, logit_softcap=0.0,
                          rope_theta=100.0, rope_attention_scaling=1.0)
        file.attrs.update(shape["attributes"])
        file["model/layers"] = np.asarray(shape["layers"], np.int32)
        file["model/inv_freq"] = 100.0 ** (-np.arange(0, rotary, 2) / rotary)
        sequence = file.create_group("sequences/000000")
        sequence.attrs.update(prompt_length=shape["prompt"], length=length)
        sequence["token_ids"] = draw.randint(0, 50, length).astype(np.int32)
        sequence["positions"] = np.arange(shape["first"], shape["first"] + length, dtype=np.int32)
        for layer in shape["layers"]:
            for tensor, heads in (("k", shape["kv"]), ("v", shape["kv"]), ("q", shape["query"])):
                rows = draw.normal(size=(length, heads, shape["d"]))
                sequence[f"layer_{layer:03}/{tensor}"] = rows.astype(np.float32)
            sequence[f"layer_{layer:03}/x"] = draw.normal(0.2, 2, (length, shape["width"])).astype(np.float32)
            norm = 0.1 * draw.normal(size=shape["width"]) + (shape["attributes"]["norm_kind"] != "rms_plus_one")
            file[f"model/layer_{layer:03}/input_norm"] = norm.astype(np.float32)
