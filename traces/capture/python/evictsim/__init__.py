"""Recording of a running engine into trace shards that `evictsim replay` reads; docs/capture.md.

    with evictsim.capture(model, "out/"):        # a transformers model
        model.generate(**inputs)

evictsim.sensitivity measures what each layer's error costs such a model, evictsim.verify what policies cost it.
vLLM loads the plug-in `evictsim` by itself (evictsim.vllm). Any other engine uses evictsim.Sink.
"""

from evictsim.sink import CaptureError, Rows, Sink

__all__ = ["CaptureError", "Rows", "Sink", "capture", "copy_probe", "sensitivity", "verify"]


def capture(model, directory, **options):
    """Records what a transformers model computes inside a `with` block; see evictsim.transformers.Capture."""
    from evictsim.transformers import Capture  # needs torch and transformers

    return Capture(model, directory, **options)


def copy_probe(tokens, length=512, rows=64):
    """A text for evictsim.sensitivity, made of any prompt's token ids; see evictsim.layer_sensitivity.copy_probe."""
    from evictsim import layer_sensitivity

    return layer_sensitivity.copy_probe(tokens, length, rows)


def sensitivity(model, texts, **options):
    """Measures how much each layer's error moves the model's distributions; see evictsim.layer_sensitivity.measure."""
    from evictsim import layer_sensitivity

    return layer_sensitivity.measure(model, texts, **options)


def verify(model, prompt, continuation, **options):
    """Runs a continuation under eviction policies; see evictsim.closed_loop.verify."""
    from evictsim import closed_loop

    return closed_loop.verify(model, prompt, continuation, **options)
