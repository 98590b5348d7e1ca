"""Sessions, and the answers that they generate."""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_double, c_float, c_int32, c_size_t, c_uint32, c_void_p
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Union

from ._library import DONE, Handle, c_path, call, interruptible, made, take_tokens
from ._options import LogitBias, Message, Stop, Tools, generation_options, messages_json, whole
from ._streams import AsyncStream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from ._model import Model

FINISH = [None, "stop", "stop", "length", "length", "stopped"]
"""Indexed by the number in ``enum kinglet_finish``."""
STOP_TOKEN = 1

_STATS = [
    "prompt_tokens", "reused_tokens", "generated_tokens", "prefill_seconds", "first_token_seconds",
    "prefill_rate", "decode_rate",
]


class Piece(NamedTuple):
    """A token, and the text that it makes final."""

    token: int
    text: str


class Generation(Handle, Iterator[str]):
    """An answer while it is generated: iterate over its pieces of text with ``for`` or ``async for``."""

    def __init__(self, handle: c_void_p, session: "Session") -> None:
        super().__init__("generation", handle)
        self._session = session
        self.tokens: List[int] = []
        """The tokens so far, including the stop token."""

    def __iter__(self) -> "Generation":
        return self

    def __next__(self) -> str:
        """The next non-empty piece of text."""
        while True:
            piece = self._pull()
            if piece is None:
                raise StopIteration
            if piece.text:
                return piece.text

    def __aiter__(self) -> "AsyncStream[str]":
        """The same for asyncio: computation runs on a separate thread and does not block the event loop."""
        return AsyncStream(self, self._session)

    def _pull(self) -> Optional[Piece]:
        """The next token; None after the last."""
        token, text, length = c_uint32(), c_void_p(), c_size_t()

        def step() -> int:
            return call("generation_next", self.handle, byref(token), byref(text), byref(length))

        # The first token includes the prompt, which may be long.
        if (step() if self.tokens else self._session._interruptible(step)) == DONE:
            return None
        self.tokens.append(token.value)
        if text.value is None or not length.value:
            return Piece(token.value, "")
        return Piece(token.value, ctypes.string_at(text.value, length.value).decode())

    def stop(self) -> None:
        """Ends the answer."""
        call("generation_stop", self.handle)

    @property
    def _finish(self) -> int:
        reason = c_int32()
        call("generation_finish", self.handle, byref(reason))
        return reason.value

    @property
    def finish_reason(self) -> Optional[str]:
        """``stop``, ``length``, ``stopped``; ``None`` before the end."""
        reason = self._finish
        return FINISH[reason] if reason < len(FINISH) else "other"

    @property
    def stats(self) -> Dict[str, float]:
        """Statistics: tokens, seconds, and tokens per second."""
        stats, value = {}, c_double()
        for number, name in enumerate(_STATS):
            call("generation_stat", self.handle, number, byref(value))
            stats[name] = value.value
        return stats


class Session(Handle):
    """A sequence of tokens. One thread at a time; :meth:`cancel` from any."""

    def __init__(self, model: "Model", handle: c_void_p) -> None:
        super().__init__("session", handle)
        self._model = model

    def chat(
        self,
        messages: Iterable[Message],
        *,
        max_tokens: Optional[int] = None,
        seed: Optional[int] = None,
        stop: Stop = None,
        stop_token_ids: Optional[Iterable[int]] = None,
        ignore_eos: Optional[bool] = None,
        tools: Tools = None,
        variables: Optional[Mapping[str, Any]] = None,
        logit_bias: LogitBias = None,
        **sampling: Optional[float],
    ) -> Generation:
        """Answers a conversation. Pass all of it each time; earlier states are reused.

        ``None`` means the value in the model's ``generation_config.json``. ``sampling`` are ``temperature``, ``top_k``, ``top_p``,
        ``min_p``, ``repetition_penalty`` and the other options of ``enum kinglet_sampling``.
        """
        options = generation_options(
            max_tokens=max_tokens, seed=seed, stop=stop, stop_token_ids=stop_token_ids, ignore_eos=ignore_eos,
            tools=tools, variables=variables, logit_bias=logit_bias, sampling=sampling,
        )
        return self._chat(messages_json(messages), options)

    def _chat(self, messages: bytes, options: Handle) -> Generation:
        return Generation(made("generation_create_chat", self.handle, messages, options.handle), self)

    def generate(
        self,
        text: str = "",
        *,
        max_tokens: Optional[int] = None,
        seed: Optional[int] = None,
        stop: Stop = None,
        stop_token_ids: Optional[Iterable[int]] = None,
        ignore_eos: Optional[bool] = None,
        logit_bias: LogitBias = None,
        parse_special: bool = False,
        **sampling: Optional[float],
    ) -> Generation:
        """Continues from the session's tokens and ``text``; with ``parse_special``, names of special tokens in it are parsed."""
        options = generation_options(
            max_tokens=max_tokens, seed=seed, stop=stop, stop_token_ids=stop_token_ids, ignore_eos=ignore_eos,
            logit_bias=logit_bias, sampling=sampling,
        )
        data = text.encode()
        flags = (1 if self.position == 0 else 0) | (2 if parse_special else 0)
        return Generation(made("generation_create_text", self.handle, data, len(data), flags, options.handle), self)

    def _continue(self, tokens: Sequence[int], options: Handle) -> Generation:
        array = (c_uint32 * len(tokens))(*tokens)
        return Generation(made("generation_create", self.handle, array, len(tokens), options.handle), self)

    def feed(self, tokens: "Sequence[int] | NDArray[np.integer[Any]]") -> None:
        """Feeds tokens."""
        array = (c_uint32 * len(tokens))(*[int(token) for token in tokens])
        self._interruptible(lambda: call("session_feed", self.handle, array, len(array)))

    def _interruptible(self, work: Callable[[], int]) -> int:
        """Runs a computation that Ctrl-C may stop."""
        try:
            return interruptible(work, self.cancel)
        except KeyboardInterrupt:
            # A cancellation that came after the work had ended.
            self.clear_cancel()
            raise

    def feed_embeddings(self, vectors: "Union[Sequence[float], ArrayLike]") -> None:
        """Feeds vectors in place of tokens' embeddings, one after another, for example a picture encoded by another model.

        A flat sequence of floats, or a NumPy array ``[vectors, width]``.
        """
        if hasattr(vectors, "__array_interface__"):
            import numpy as np

            array = np.ascontiguousarray(vectors, dtype=np.float32)
            call("session_feed_embeddings", self.handle, array.ctypes.data_as(ctypes.POINTER(c_float)), array.size)
            return
        numbers: Any = vectors
        call("session_feed_embeddings", self.handle, (c_float * len(numbers))(*numbers), len(numbers))

    def logits(self) -> "NDArray[np.float32]":
        """The logits after the last token, ``[vocabulary]``, as a new NumPy array."""
        try:
            import numpy as np
        except ImportError as error:
            raise ImportError("logits are a NumPy array, but NumPy is not installed: pip install numpy") from error
        logits = np.empty(self._model.vocabulary, dtype=np.float32)
        call("session_logits", self.handle, logits.ctypes.data_as(ctypes.POINTER(c_float)), logits.size)
        return logits

    def fork(self) -> "Session":
        """A copy of the session that continues independently."""
        return Session(self._model, made("session_fork", self.handle))

    def cancel(self) -> None:
        """Stops the session's current computation, or its next one, with :class:`Cancelled`. From any thread."""
        call("session_cancel", self.handle)

    def clear_cancel(self) -> None:
        """Clears a cancellation that came too late. From any thread."""
        call("session_clear_cancel", self.handle)

    def reset(self) -> None:
        """Removes all tokens."""
        call("session_reset", self.handle)

    def rewind(self, tokens: int) -> None:
        """Rewinds to the first ``tokens`` tokens, recomputing what is necessary."""
        count = whole(tokens, "tokens")
        self._interruptible(lambda: call("session_rewind", self.handle, count, 1, None))

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Saves the session to a file: see :meth:`Model.load`."""
        call("session_save", self.handle, c_path(path))

    @property
    def position(self) -> int:
        """The number of tokens."""
        tokens = c_size_t()
        call("session_position", self.handle, byref(tokens))
        return tokens.value

    @property
    def tokens(self) -> List[int]:
        """The tokens."""
        tokens, count = c_void_p(), c_size_t()
        call("session_tokens", self.handle, byref(tokens), byref(count))
        return take_tokens(tokens, count.value)
