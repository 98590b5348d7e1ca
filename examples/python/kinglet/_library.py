"""Finds libkinglet, declares its functions, and turns its errors into exceptions."""

from __future__ import annotations

import atexit
import ctypes
import ctypes.util
import logging
import os
import sys
import threading
from concurrent.futures import Future, wait
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_double, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Callable, List, Optional, Type, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

ABI_VERSION = 1
"""The version of kinglet.h that this package is written for."""

DONE = 1
INVALID_ARGUMENT = -1
CANCELLED = -6


class KingletError(Exception):
    """A failed call. ``status`` is a ``kinglet_status``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> "tuple[type[KingletError], tuple[int, str]]":
        # Pickling recreates exceptions from their arguments, of which this one has more than its message.
        return type(self), (self.status, str(self))


class Cancelled(KingletError):
    """The call was cancelled by :meth:`Session.cancel`."""


class InvalidArgument(KingletError, ValueError):
    """A value that is out of range or inconsistent with others."""


def _find() -> str:
    """$KINGLET_LIBRARY, or the library next to this file, or the system's."""
    given = os.environ.get("KINGLET_LIBRARY")
    if given:
        return given
    name = {"darwin": "libkinglet.dylib", "win32": "kinglet.dll"}.get(sys.platform, "libkinglet.so")
    beside = Path(__file__).with_name(name)
    if beside.exists():
        return str(beside)
    return ctypes.util.find_library("kinglet") or name


_LOG_CALLBACK = CFUNCTYPE(None, c_void_p, c_uint32, c_char_p)


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_find())
    except OSError as error:
        raise ImportError(
            f"libkinglet can't be loaded ({error}): install the package with pip, which builds it, or set KINGLET_LIBRARY to its path"
        ) from error
    handle, out, size = c_void_p, POINTER(c_void_p), c_size_t
    declarations = {
        "check_abi": [c_uint32],
        "free": [c_void_p],
        "log_set": [_LOG_CALLBACK, c_void_p, c_uint32],
        "estimate": [c_char_p, handle, size, POINTER(c_uint64), POINTER(c_uint64), POINTER(c_uint64)],
        "model_options_create": [out],
        "model_options_delete": [handle],
        "model_options_set_backend": [handle, c_char_p],
        "model_options_set_threads": [handle, size],
        "model_options_set_context_limit": [handle, size],
        "model_open": [c_char_p, handle, out],
        "model_delete": [handle],
        "model_description": [handle, out],
        "model_render": [handle, c_char_p, handle, out, POINTER(size)],
        "model_tokenizer": [handle, out],
        "model_vocabulary": [handle, POINTER(size)],
        "tokenizer_encode": [handle, c_char_p, size, c_uint32, out, POINTER(size)],
        "tokenizer_decode": [handle, POINTER(c_uint32), size, c_int32, out, POINTER(size)],
        "tokenizer_delete": [handle],
        "session_create": [handle, out],
        "session_delete": [handle],
        "model_embedding_width": [handle, POINTER(size)],
        "model_embed": [handle, POINTER(c_uint32), size, POINTER(c_float), size],
        "session_feed": [handle, POINTER(c_uint32), size],
        "session_feed_embeddings": [handle, POINTER(c_float), size],
        "session_fork": [handle, out],
        "session_cancel": [handle],
        "session_clear_cancel": [handle],
        "session_reset": [handle],
        "session_logits": [handle, POINTER(c_float), size],
        "session_position": [handle, POINTER(size)],
        "session_tokens": [handle, out, POINTER(size)],
        "session_rewind": [handle, size, c_int32, POINTER(size)],
        "session_save": [handle, c_char_p],
        "session_load": [handle, c_char_p, out],
        "generation_options_create": [out],
        "generation_options_delete": [handle],
        "generation_options_set": [handle, c_uint32, c_double],
        "generation_options_add_logit_bias": [handle, c_uint32, c_float],
        "generation_options_set_max_tokens": [handle, size],
        "generation_options_set_seed": [handle, c_uint64],
        "generation_options_add_stop": [handle, c_char_p],
        "generation_options_add_stop_token": [handle, c_uint32],
        "generation_options_set_ignore_eos": [handle, c_int32],
        "generation_options_set_tools": [handle, c_char_p],
        "generation_options_set_variables": [handle, c_char_p],
        "generation_create": [handle, POINTER(c_uint32), size, handle, out],
        "generation_create_text": [handle, c_char_p, size, c_uint32, handle, out],
        "generation_create_chat": [handle, c_char_p, handle, out],
        "generation_next": [handle, POINTER(c_uint32), POINTER(c_void_p), POINTER(size)],
        "generation_stop": [handle],
        "generation_finish": [handle, POINTER(c_int32)],
        "generation_stat": [handle, c_uint32, POINTER(c_double)],
        "generation_delete": [handle],
    }
    for name, arguments in declarations.items():
        function = getattr(library, "kinglet_" + name)
        function.argtypes, function.restype = arguments, c_int32
    for name in ("last_error", "version"):
        function = getattr(library, "kinglet_" + name)
        function.argtypes, function.restype = [], c_char_p
    return library


_library = _load()


def call(name: str, *arguments: object) -> int:
    """Calls ``kinglet_NAME``; raises an exception for an error."""
    status: int = getattr(_library, "kinglet_" + name)(*arguments)
    if status < 0:
        message = _library.kinglet_last_error().decode("utf-8", "replace")
        kinds = {CANCELLED: Cancelled, INVALID_ARGUMENT: InvalidArgument}
        raise kinds.get(status, KingletError)(status, message)
    return status


T = TypeVar("T")


def interruptible(work: Callable[[], T], cancel: Callable[[], None]) -> T:
    """The result of `work`, a call that may take long. On the main thread Ctrl-C stops it: Python would handle the signal only
    after the call, so the call runs on another thread, and `cancel` stops it."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="kinglet", daemon=True).start()
    try:
        return future.result()
    except BaseException:
        while not future.done():
            cancel()
            wait([future], timeout=0.05)
        raise


def library_version() -> str:
    """The version of the library."""
    version: bytes = _library.kinglet_version()
    return version.decode()


class Handle:
    """A handle that is deleted with its object, or at the end of a ``with``."""

    def __init__(self, kind: str, handle: c_void_p) -> None:
        self._kind = kind
        self._handle = handle

    @property
    def handle(self) -> c_void_p:
        """The pointer for functions of kinglet.h."""
        return self._handle

    def close(self) -> None:
        """Frees the memory now. Later calls raise :class:`KingletError`."""
        handle = self._release()
        if handle:
            call(self._kind + "_delete", handle)

    def _release(self) -> c_void_p:
        """Returns the handle and gives up its ownership."""
        handle, self._handle = self._handle, c_void_p()
        return handle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) and not sys.is_finalizing():
            self.close()


def made(name: str, *arguments: object) -> c_void_p:
    """The handle that a call returns through its last argument."""
    handle = c_void_p()
    call(name, *arguments, ctypes.byref(handle))
    return handle


def c_text(value: object, name: str) -> bytes:
    """A text for a function that takes one without a length."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    data = value.encode()
    if b"\0" in data:
        raise ValueError(f"{name} contains a NUL character")
    return data


def c_path(path: "str | os.PathLike[str]") -> bytes:
    """A path for a function that takes one."""
    data = os.fsencode(path)
    if b"\0" in data:
        raise ValueError("a path contains a NUL character")
    return data


def take_text(pointer: c_void_p, length: Optional[int] = None) -> str:
    """Takes a text that Kinglet returned."""
    try:
        return (ctypes.string_at(pointer) if length is None else ctypes.string_at(pointer, length)).decode()
    finally:
        call("free", pointer)


def take_tokens(pointer: c_void_p, count: int) -> List[int]:
    """Takes tokens that Kinglet returned."""
    try:
        return list(ctypes.cast(pointer, POINTER(c_uint32))[:count])
    finally:
        call("free", pointer)


log = logging.getLogger("kinglet")
log.addHandler(logging.NullHandler())
_LEVELS = {1: logging.ERROR, 2: logging.WARNING, 3: logging.INFO, 4: logging.DEBUG}


def _forward_log() -> None:
    """Sends the library's warnings to the logger ``kinglet``, which is silent unless the program configures logging."""

    def forward(_user: object, level: int, message: bytes) -> None:
        log.log(_LEVELS.get(level, logging.DEBUG), "%s", message.decode("utf-8", "replace"))

    callback: Callable[..., object] = _LOG_CALLBACK(forward)
    call("log_set", callback, None, 2)
    # The callback lives as long as the function that removes it.
    atexit.register(lambda: (call("log_set", _LOG_CALLBACK(), None, 0), callback))


call("check_abi", ABI_VERSION)
_forward_log()
