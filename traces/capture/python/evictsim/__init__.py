"""Recording of a running engine into trace shards that `evictsim replay` reads; docs/capture.md.

    with evictsim.capture(model, "out/"):        # a transformers model
        model.generate(**inputs)

vLLM loads the plug-in `evictsim` by itself (evictsim.vllm). Any other engine uses evictsim.Sink.
"""

from evictsim.sink import CaptureError, Rows, Sink

__all__ = ["CaptureError", "Rows", "Sink", "capture"]


def capture(model, directory, **options):
    """Records what a transformers model computes inside a `with` block; see evictsim.transformers.Capture."""
    from evictsim.transformers import Capture  # needs torch and transformers

    return Capture(model, directory, **options)
