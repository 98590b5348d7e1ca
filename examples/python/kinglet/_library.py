"""Finds libkinglet, declares what is used of it, and makes exceptions of its errors."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path

ABI_VERSION = 1
"""The version of kinglet.h that this package is written for."""

DONE = 1
CANCELLED = -6


class KingletError(Exception):
    """A call that failed. ``status`` is a ``kinglet_status``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Cancelled(KingletError):
    """The call was cancelled by :meth:`Session.cancel`."""


def _find() -> str:
    """$KINGLET_LIBRARY, else the library beside this file, else the system's."""
    given = os.environ.get("KINGLET_LIBRARY")
    if given:
        return given
    name = {"darwin": "libkinglet.dylib", "win32": "kinglet.dll"}.get(sys.platform, "libkinglet.so")
    beside = Path(__file__).with_name(name)
    if beside.exists():
        return str(beside)
    return ctypes.util.find_library("kinglet") or name


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_find())
    except OSError as error:
        raise ImportError(f"libkinglet can't be loaded ({error}): set KINGLET_LIBRARY to its path") from error
    handle, out, size = c_void_p, POINTER(c_void_p), c_size_t
    declarations = {
        "check_abi": [c_uint32],
        "free": [c_void_p],
        "estimate": [c_char_p, handle, size, POINTER(c_uint64), POINTER(c_uint64), POINTER(c_uint64)],
        "model_options_create": [out],
        "model_options_delete": [handle],
        "model_options_set_backend": [handle, c_char_p],
        "model_options_set_threads": [handle, size],
        "model_options_set_context_limit": [handle, size],
        "model_open": [c_char_p, handle, out],
        "model_delete": [handle],
        "model_description": [handle, out],
        "model_tokenizer": [handle, out],
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
        "session_position": [handle, POINTER(size)],
        "session_rewind": [handle, size, c_int32, POINTER(size)],
        "session_save": [handle, c_char_p],
        "session_load": [handle, c_char_p, out],
        "generation_options_create": [out],
        "generation_options_delete": [handle],
        "generation_options_set": [handle, c_uint32, c_double],
        "generation_options_set_max_tokens": [handle, size],
        "generation_options_set_seed": [handle, c_uint64],
        "generation_options_add_stop": [handle, c_char_p],
        "generation_options_set_tools": [handle, c_char_p],
        "generation_options_set_variables": [handle, c_char_p],
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
    library.kinglet_last_error.argtypes, library.kinglet_last_error.restype = [], c_char_p
    return library


_library = _load()


def call(name: str, *arguments: object) -> int:
    """Calls ``kinglet_NAME``; an error becomes an exception."""
    status: int = getattr(_library, "kinglet_" + name)(*arguments)
    if status < 0:
        message = _library.kinglet_last_error().decode("utf-8", "replace")
        raise (Cancelled if status == CANCELLED else KingletError)(status, message)
    return status


class Handle:
    """A handle that is deleted with its object."""

    def __init__(self, kind: str, handle: c_void_p) -> None:
        self._kind = kind
        self._handle = handle

    @property
    def handle(self) -> c_void_p:
        return self._handle

    def close(self) -> None:
        """Gives the memory back now. Calls afterwards raise :class:`KingletError`."""
        handle, self._handle = self._handle, c_void_p()
        if handle:
            call(self._kind + "_delete", handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None) and not sys.is_finalizing():
            self.close()


def take_text(pointer: c_void_p, length: int | None = None) -> str:
    """A text that Kinglet gave out."""
    try:
        return (ctypes.string_at(pointer) if length is None else ctypes.string_at(pointer, length)).decode()
    finally:
        call("free", pointer)


call("check_abi", ABI_VERSION)
