"""Kinglet, an inference engine for recurrent and hybrid language models.

    import kinglet

    model = kinglet.Model("path/to/model")
    for text in model.session().chat([{"role": "user", "content": "Hello"}]):
        print(text, end="", flush=True)
"""

from __future__ import annotations

import ctypes
import json
import os
from ctypes import byref, c_double, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from ._library import DONE, Cancelled, Handle, KingletError, call, take_text

__all__ = ["Cancelled", "Generation", "KingletError", "Model", "Session", "estimate"]

Message = Mapping[str, Any]

_SAMPLING = [
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "penalty_last_n", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_last_n",
    "xtc_probability", "xtc_threshold", "temperature_last",
]
_FINISH = [None, "stop", "stop", "length", "length", "stopped"]
_STATS = [
    "prompt_tokens", "reused_tokens", "generated_tokens", "prefill_seconds", "first_token_seconds",
    "prefill_rate", "decode_rate",
]


def estimate(path: "str | os.PathLike[str]", context: int = 4096) -> Dict[str, int]:
    """Bytes that the model in the folder ``path`` will take with one session of ``context`` tokens."""
    numbers = [c_uint64() for _ in range(3)]
    call("estimate", os.fsencode(path), None, context, *map(byref, numbers))
    return dict(zip(["weights", "state", "working"], (number.value for number in numbers)))


def _options(
    max_tokens: Optional[int],
    seed: Optional[int],
    stop: "str | Sequence[str] | None",
    tools: Optional[Sequence[Mapping[str, Any]]],
    variables: Optional[Mapping[str, Any]],
    sampling: Mapping[str, float],
) -> Handle:
    made = c_void_p()
    call("generation_options_create", byref(made))
    options = Handle("generation_options", made)
    for name, value in sampling.items():
        if name not in _SAMPLING:
            raise TypeError(f"there is no sampling option {name!r}: {', '.join(_SAMPLING)}")
        call("generation_options_set", made, _SAMPLING.index(name), value)
    if max_tokens is not None:
        call("generation_options_set_max_tokens", made, max_tokens)
    if seed is not None:
        call("generation_options_set_seed", made, seed)
    for text in [stop] if isinstance(stop, str) else stop or []:
        call("generation_options_add_stop", made, text.encode())
    if tools is not None:
        call("generation_options_set_tools", made, json.dumps(list(tools)).encode())
    if variables is not None:
        call("generation_options_set_variables", made, json.dumps(dict(variables)).encode())
    return options


class Generation(Handle, Iterator[str]):
    """An answer as it is generated: iterate over its pieces of text."""

    def __init__(self, handle: c_void_p, session: "Session") -> None:
        super().__init__("generation", handle)
        self._session = session
        self.tokens: List[int] = []
        """The tokens so far."""

    def __iter__(self) -> "Generation":
        return self

    def __next__(self) -> str:
        """The next piece of text that is not empty."""
        token, text, length = c_uint32(), c_void_p(), c_size_t()
        while True:
            status = call("generation_next", self.handle, byref(token), byref(text), byref(length))
            if status == DONE:
                raise StopIteration
            self.tokens.append(token.value)
            if length.value and text.value is not None:
                return ctypes.string_at(text.value, length.value).decode()

    def stop(self) -> None:
        """Ends the answer here."""
        call("generation_stop", self.handle)

    @property
    def finish_reason(self) -> Optional[str]:
        """``stop``, ``length``, ``stopped``; ``None`` before the end."""
        reason = c_int32()
        call("generation_finish", self.handle, byref(reason))
        return _FINISH[reason.value] if reason.value < len(_FINISH) else "other"

    @property
    def stats(self) -> Dict[str, float]:
        """Tokens, seconds and tokens per second."""
        stats, value = {}, c_double()
        for number, name in enumerate(_STATS):
            call("generation_stat", self.handle, number, byref(value))
            stats[name] = value.value
        return stats


class Session(Handle):
    """One sequence of tokens. One thread at a time; :meth:`cancel` from any."""

    def __init__(self, model: "Model", handle: c_void_p) -> None:
        super().__init__("session", handle)
        self._model = model

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: Optional[int] = None,
        seed: Optional[int] = None,
        stop: "str | Sequence[str] | None" = None,
        tools: Optional[Sequence[Mapping[str, Any]]] = None,
        variables: Optional[Mapping[str, Any]] = None,
        **sampling: float,
    ) -> Generation:
        """The answer to a conversation: all of it, each time; what was computed before is used again."""
        options = _options(max_tokens, seed, stop, tools, variables, sampling)
        made = c_void_p()
        encoded = json.dumps([dict(message) for message in messages]).encode()
        call("generation_create_chat", self.handle, encoded, options.handle, byref(made))
        return Generation(made, self)

    def generate(
        self,
        text: str = "",
        *,
        max_tokens: Optional[int] = None,
        seed: Optional[int] = None,
        stop: "str | Sequence[str] | None" = None,
        **sampling: float,
    ) -> Generation:
        """What goes on from here and ``text``."""
        options = _options(max_tokens, seed, stop, None, None, sampling)
        made = c_void_p()
        data = text.encode()
        add_special = 1 if self.position == 0 else 0
        call("generation_create_text", self.handle, data, len(data), add_special, options.handle, byref(made))
        return Generation(made, self)

    def feed(self, tokens: Sequence[int]) -> None:
        """Takes tokens in."""
        call("session_feed", self.handle, (c_uint32 * len(tokens))(*tokens), len(tokens))

    def feed_embeddings(self, vectors: Sequence[float]) -> None:
        """Takes vectors in place of tokens' embeddings, one behind the other: what another model makes of a picture, for one."""
        call("session_feed_embeddings", self.handle, (c_float * len(vectors))(*vectors), len(vectors))

    def fork(self) -> "Session":
        """A second session that goes on from here by itself."""
        made = c_void_p()
        call("session_fork", self.handle, byref(made))
        return Session(self._model, made)

    def cancel(self) -> None:
        """Ends what the session is computing, or will compute next, with :class:`Cancelled`. From any thread."""
        call("session_cancel", self.handle)

    def clear_cancel(self) -> None:
        """Takes a cancellation away that came too late for what it was meant for. From any thread."""
        call("session_clear_cancel", self.handle)

    def reset(self) -> None:
        """Back to no tokens."""
        call("session_reset", self.handle)

    def rewind(self, tokens: int) -> None:
        """Back to the first ``tokens`` tokens, computing again what has to be."""
        call("session_rewind", self.handle, tokens, 1, None)

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Saves the session to a file: see :meth:`Model.load`."""
        call("session_save", self.handle, os.fsencode(path))

    @property
    def position(self) -> int:
        """How many tokens it holds."""
        tokens = c_size_t()
        call("session_position", self.handle, byref(tokens))
        return tokens.value


class Model(Handle):
    """An open model. Any number of threads may use it."""

    def __init__(
        self,
        path: "str | os.PathLike[str]",
        *,
        backend: Optional[str] = None,
        threads: Optional[int] = None,
        context_limit: Optional[int] = None,
    ) -> None:
        made = c_void_p()
        call("model_options_create", byref(made))
        options = Handle("model_options", made)
        if backend is not None:
            call("model_options_set_backend", made, backend.encode())
        if threads is not None:
            call("model_options_set_threads", made, threads)
        if context_limit is not None:
            call("model_options_set_context_limit", made, context_limit)
        model = c_void_p()
        call("model_open", os.fsencode(path), options.handle, byref(model))
        super().__init__("model", model)
        self.path = os.fspath(path)

    def session(self) -> Session:
        """A session without tokens."""
        made = c_void_p()
        call("session_create", self.handle, byref(made))
        return Session(self, made)

    def load(self, path: "str | os.PathLike[str]") -> Session:
        """A session that :meth:`Session.save` saved."""
        made = c_void_p()
        call("session_load", self.handle, os.fsencode(path), byref(made))
        return Session(self, made)

    def encode(self, text: str, *, add_special: bool = False) -> List[int]:
        """The tokens of a text."""
        tokenizer, tokens, count, data = self._tokenizer(), c_void_p(), c_size_t(), text.encode()
        call("tokenizer_encode", tokenizer.handle, data, len(data), int(add_special), byref(tokens), byref(count))
        try:
            array = ctypes.cast(tokens, ctypes.POINTER(c_uint32))
            return [array[index] for index in range(count.value)]
        finally:
            call("free", tokens)

    def embed(self, tokens: Sequence[int]) -> List[float]:
        """The vectors that tokens are embedded as, one behind the other, as :meth:`Session.feed_embeddings` takes them."""
        width = c_size_t()
        call("model_embedding_width", self.handle, byref(width))
        vectors = (c_float * (len(tokens) * width.value))()
        call("model_embed", self.handle, (c_uint32 * len(tokens))(*tokens), len(tokens), vectors, len(vectors))
        return list(vectors)

    def decode(self, tokens: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of tokens."""
        tokenizer, text, length, array = self._tokenizer(), c_void_p(), c_size_t(), (c_uint32 * len(tokens))(*tokens)
        call("tokenizer_decode", tokenizer.handle, array, len(tokens), int(skip_special), byref(text), byref(length))
        return take_text(text, length.value)

    def _tokenizer(self) -> Handle:
        made = c_void_p()
        call("model_tokenizer", self.handle, byref(made))
        return Handle("tokenizer", made)

    @property
    def description(self) -> str:
        """What it is and what it runs on."""
        text = c_void_p()
        call("model_description", self.handle, byref(text))
        return take_text(text)

    def create_chat_completion(
        self, messages: Sequence[Message], *, stream: bool = False, **options: Any
    ) -> "Dict[str, Any] | Iterator[Dict[str, Any]]":
        """A chat completion in the form of OpenAI's interface, whole or, with ``stream``, in chunks."""
        generation = self.session().chat(messages, **options)
        if stream:
            return self._chunks(generation)
        content = "".join(generation)
        stats = generation.stats
        prompt, answer = int(stats["prompt_tokens"]), int(stats["generated_tokens"])
        message = {"role": "assistant", "content": content}
        return {
            "object": "chat.completion",
            "model": self.path,
            "choices": [{"index": 0, "message": message, "finish_reason": generation.finish_reason}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer},
        }

    def _chunks(self, generation: Generation) -> Iterator[Dict[str, Any]]:
        def chunk(delta: Dict[str, str], finish: Optional[str]) -> Dict[str, Any]:
            choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
            return {"object": "chat.completion.chunk", "model": self.path, "choices": choices}

        yield chunk({"role": "assistant"}, None)
        for text in generation:
            yield chunk({"content": text}, None)
        yield chunk({}, generation.finish_reason)
