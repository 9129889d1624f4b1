"""The attention backend that vLLM is given in place of one of its own. Imported by vLLM, by this module's name."""

import importlib

from vllm.v1.attention.backends.registry import AttentionBackendEnum

from evictsim import vllm
from evictsim.sink import CaptureError


def _own_class(member):
    """The backend as vLLM ships it; `get_class` would give ours."""
    module, _, name = member.value.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _never():
    for name in ("vllm.v1.attention.backend", "vllm.v1.attention.backends.utils"):  # it has moved
        try:
            return importlib.import_module(name).AttentionCGSupport.NEVER
        except (ImportError, AttributeError):
            continue
    raise CaptureError("this version of vLLM has no AttentionCGSupport; the plug-in does not know it")


_Backend = _own_class(AttentionBackendEnum[vllm.backend_name()])
_Impl, _Builder = _Backend.get_impl_cls(), _Backend.get_builder_cls()


class CaptureImpl(_Impl):
    def forward(self, layer, query, key, value, kv_cache, attn_metadata, *args, **kwargs):
        if attn_metadata is not None:  # none while memory is profiled
            vllm.capture().attention(layer, query, key, value)
        return super().forward(layer, query, key, value, kv_cache, attn_metadata, *args, **kwargs)


class CaptureBuilder(_Builder):
    """A full CUDA graph would replay without calling forward, so none is supported."""

    _cudagraph_support = cudagraph_support = _never()  # the name changed between versions

    @classmethod
    def get_cudagraph_support(cls, *args, **kwargs):
        return cls._cudagraph_support

    def build(self, common_prefix_len, common_attn_metadata, *args, **kwargs):
        vllm.capture().metadata_built(self, common_attn_metadata)
        return super().build(common_prefix_len, common_attn_metadata, *args, **kwargs)


class CaptureBackend(_Backend):
    @staticmethod
    def get_impl_cls():
        return CaptureImpl

    @staticmethod
    def get_builder_cls():
        return CaptureBuilder
