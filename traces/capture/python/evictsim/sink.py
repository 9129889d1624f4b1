"""The capture sink (traces/capture/evictsim_capture.h) as a Python class, over ctypes.

Arrays are anything that speaks DLPack: NumPy, torch, CuPy, JAX. Neither torch nor NumPy is imported here.
"""

import ctypes
import os
import warnings
from itertools import accumulate
from pathlib import Path
from typing import Iterable, NamedTuple, Optional, Sequence

ABI_MAJOR, ABI_MINOR = 1, 2

ROLES = {
    name: number
    for number, name in enumerate(
        (
            "q",
            "k",
            "v",
            "x",
            "after_attention",
            "logits",
            "entropy",
            "entropy_top",
            "logprob",
            "step_norm",
            "cos_final",
            "cos_attention",
            "residual_norm",
            "final_norm_input",
        )
    )
}
WEIGHTS = {
    name: number for number, name in enumerate(("w_o", "input_norm", "output_norm", "unembedding", "final_norm"))
}
STATUSES = (
    "ok",
    "invalid argument",
    "wrong order",
    "unsupported",
    "version mismatch",
    "invalid value",
    "file not found",
    "permission denied",
    "io failure",
    "out of memory",
    "internal",
    "device failure",
)
INVALID_VALUE = STATUSES.index("invalid value")
CPU = 1  # of DLDeviceType


class CaptureError(RuntimeError):
    """A capture that cannot go on; says what was wrong and what would be right."""


class Rows(NamedTuple):
    """Consecutive rows of a step's tensors that belong to one request."""

    request_id: str
    first_row: int
    first_position: int
    token_ids: Sequence[int]
    prompt_length: int = 0  # 0: the rows of the request's first step


class _Rows(ctypes.Structure):
    _fields_ = [
        ("request_id", ctypes.c_char_p),
        ("first_row", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("first_position", ctypes.c_int32),
        ("prompt_length", ctypes.c_int32),
        ("token_ids", ctypes.POINTER(ctypes.c_int32)),
    ]


class _Counters(ctypes.Structure):
    _fields_ = (
        [("struct_size", ctypes.c_uint32), ("reserved", ctypes.c_uint32)]
        + [
            (name, ctypes.c_uint64)
            for name in (
                "rows",
                "dropped_rows",
                "requests",
                "dropped_requests",
                "skipped_requests",
                "pushed_bytes",
                "written_bytes",
                "shards",
                "waits",
            )
        ]
        + [
            ("wait_seconds", ctypes.c_double),
            ("call_seconds", ctypes.c_double),
            ("dropped_passes", ctypes.c_uint64),
        ]
    )


def _load_library():
    """$EVICTSIM_CAPTURE_LIBRARY, else the library that the package was installed with, else the system's."""
    name = "libevictsim_capture.so.1"
    given = os.environ.get("EVICTSIM_CAPTURE_LIBRARY")
    installed = Path(__file__).with_name(name)
    path = given or (str(installed) if installed.exists() else name)
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise CaptureError(
            f"the capture library {path} cannot be loaded: {error}. Build it (cmake --build --preset release --target "
            "evictsim_capture_shared) and set EVICTSIM_CAPTURE_LIBRARY to build/release/lib/libevictsim_capture.so, "
            "or install the package again"
        ) from error
    library.evictsim_capture_abi_version.restype = ctypes.c_uint32
    version = library.evictsim_capture_abi_version()
    if version >> 16 != ABI_MAJOR or version & 0xFFFF < ABI_MINOR:
        raise CaptureError(
            f"{path} has version {version >> 16}.{version & 0xFFFF} of the interface; this package "
            f"needs {ABI_MAJOR}.{ABI_MINOR}: build and install both from one source tree"
        )
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
    signatures = {
        "open": [text, text, ctypes.c_uint32, ctypes.POINTER(handle)],
        "model": [handle, text],
        "weight": [handle, handle, number, number],
        "vocabulary": [handle, text, ctypes.POINTER(ctypes.c_int64), ctypes.c_size_t],
        "describe_request": [handle, text, text, text],
        "begin_step": [handle, ctypes.POINTER(_Rows), ctypes.c_size_t],
        "push": [handle, handle, number, number, handle],
        "end_step": [handle],
        "finish_request": [handle, text],
        "flush": [handle],
        "get_counters": [handle, ctypes.POINTER(_Counters)],
        "close": [handle],
    }
    for function, arguments in signatures.items():
        entry = getattr(library, "evictsim_capture_" + function)
        entry.argtypes, entry.restype = arguments, number
    library.evictsim_capture_last_error.restype = text
    library.evictsim_capture_last_loss.argtypes, library.evictsim_capture_last_loss.restype = [handle], text
    return library


_library = None


def library():
    """The loaded library. Raises CaptureError when it is not to be had."""
    global _library
    if _library is None:
        _library = _load_library()
    return _library


ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
ctypes.pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _dl_tensor(array):
    """The array as a DLPack capsule, which owns it, and the address of the DLTensor inside."""
    try:
        # -1: no synchronisation; the sink orders its reads behind the stream that it is given.
        capsule = array.__dlpack__() if array.__dlpack_device__()[0] == CPU else array.__dlpack__(stream=-1)
    except (AttributeError, BufferError, TypeError, RuntimeError) as error:
        raise CaptureError(
            f"{type(array).__name__} cannot be read through DLPack: {error}. Pass a writable array of "
            "float16, bfloat16 or float32"
        ) from error
    return capsule, ctypes.pythonapi.PyCapsule_GetPointer(capsule, b"dltensor")


def _text(value):
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        return ",".join(_text(item) for item in value)
    return repr(value) if isinstance(value, float) else str(value)


def _lines(values):
    """name=value lines; None leaves a name out."""
    lines = []
    for name, value in values.items():
        if value is None:
            continue
        text = _text(value)
        if "\n" in text:
            raise CaptureError(f"{name} must be one line")
        lines.append(f"{name}={text}")
    return "\n".join(lines).encode()


class Sink:
    """One capture into one directory; see evictsim_capture.h for what each call means."""

    def __init__(self, directory, **options):
        """`options`: those of docs/capture.md. Lists, numbers and truth values are written as the sink reads them."""
        self._handle = ctypes.c_void_p()
        self._warned = False
        text = _lines(options)
        self._check(
            library().evictsim_capture_open(
                os.fsencode(directory), text, ABI_MAJOR << 16 | ABI_MINOR, ctypes.byref(self._handle)
            )
        )

    def _check(self, status):
        if status == 0:
            return
        message = (library().evictsim_capture_last_error() or b"").decode(errors="replace")
        if status == INVALID_VALUE and self._handle:
            # Some rows could not be stored; the capture goes on without them, and the trace says so.
            if not self._warned:
                warnings.warn(f"evictsim: rows are lost: {message}", RuntimeWarning, stacklevel=3)
            self._warned = True
            return
        kind = STATUSES[status] if 0 < status < len(STATUSES) else f"status {status}"
        raise CaptureError(f"{kind}: {message}")

    def _open_handle(self):
        if not self._handle:
            raise CaptureError("the capture is closed")
        return self._handle

    def model(self, **attributes):
        self._check(library().evictsim_capture_model(self._open_handle(), _lines(attributes)))

    def weight(self, array, name: str, layer: int = 0):
        capsule, tensor = _dl_tensor(array)
        self._check(library().evictsim_capture_weight(self._open_handle(), tensor, WEIGHTS[name], layer))
        del capsule

    def vocabulary(self, texts: Sequence[bytes]):
        """The bytes of every token id, for `store_text`."""
        ends = (ctypes.c_int64 * len(texts))(*accumulate(map(len, texts)))
        self._check(library().evictsim_capture_vocabulary(self._open_handle(), b"".join(texts), ends, len(texts)))

    def describe_request(self, request_id: str, *, task: Optional[str] = None, text: Optional[str] = None, spans=()):
        """`spans`: (kind, first token, end token)."""
        lines = [_lines({"task": task})] if task is not None else []
        lines += [f"span={kind}=tokens:{first}:{end}".encode() for kind, first, end in spans]
        self._check(
            library().evictsim_capture_describe_request(
                self._open_handle(), request_id.encode(), b"\n".join(lines), None if text is None else text.encode()
            )
        )

    def begin_step(self, rows: Sequence[Rows]):
        array = (_Rows * len(rows))()
        tokens = []
        for place, row in zip(array, rows):
            tokens.append((ctypes.c_int32 * len(row.token_ids))(*row.token_ids))
            place.request_id = row.request_id.encode()
            place.first_row, place.count, place.first_position = row.first_row, len(row.token_ids), row.first_position
            place.prompt_length = row.prompt_length
            place.token_ids = tokens[-1]
        self._check(library().evictsim_capture_begin_step(self._open_handle(), array, len(rows)))

    def push(self, array, role: str, layer: int = 0, stream: Optional[int] = None):
        """`stream`: the address of the producer's CUDA stream; for device arrays only."""
        capsule, tensor = _dl_tensor(array)
        self._check(library().evictsim_capture_push(self._open_handle(), tensor, ROLES[role], layer, stream))
        del capsule  # until here it kept the memory alive

    def end_step(self):
        self._check(library().evictsim_capture_end_step(self._open_handle()))

    def finish_request(self, request_id: str):
        self._check(library().evictsim_capture_finish_request(self._open_handle(), request_id.encode()))

    def flush(self):
        self._check(library().evictsim_capture_flush(self._open_handle()))

    def counters(self) -> dict:
        counters = _Counters(struct_size=ctypes.sizeof(_Counters))
        self._check(library().evictsim_capture_get_counters(self._open_handle(), ctypes.byref(counters)))
        return {name: getattr(counters, name) for name, _ in _Counters._fields_[2:]}

    def last_loss(self) -> str:
        return (library().evictsim_capture_last_loss(self._open_handle()) or b"").decode(errors="replace")

    def close(self):
        """Seals the last shards. A second call does nothing."""
        if self._handle:
            handle, self._handle = self._handle, ctypes.c_void_p()
            self._check(library().evictsim_capture_close(handle))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
