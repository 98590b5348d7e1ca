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
"""By their number in ``enum kinglet_finish``."""
STOP_TOKEN = 1

_STATS = [
    "prompt_tokens", "reused_tokens", "generated_tokens", "prefill_seconds", "first_token_seconds",
    "prefill_rate", "decode_rate",
]


class Piece(NamedTuple):
    """A token, and the text that has become certain with it."""

    token: int
    text: str


class Generation(Handle, Iterator[str]):
    """An answer as it is generated: iterate over its pieces of text, with ``for`` or with ``async for``."""

    def __init__(self, handle: c_void_p, session: "Session") -> None:
        super().__init__("generation", handle)
        self._session = session
        self.tokens: List[int] = []
        """The tokens so far, with the one that ended the answer."""

    def __iter__(self) -> "Generation":
        return self

    def __next__(self) -> str:
        """The next piece of text that is not empty."""
        while True:
            piece = self._pull()
            if piece is None:
                raise StopIteration
            if piece.text:
                return piece.text

    def __aiter__(self) -> "AsyncStream[str]":
        """The same for asyncio: what is computed is computed on a thread of its own, and the loop goes on meanwhile."""
        return AsyncStream(self, self._session)

    def _pull(self) -> Optional[Piece]:
        """The next token; None after the last."""
        token, text, length = c_uint32(), c_void_p(), c_size_t()

        def step() -> int:
            return call("generation_next", self.handle, byref(token), byref(text), byref(length))

        # With the first token comes the prompt, which may be long.
        if (step() if self.tokens else self._session._interruptible(step)) == DONE:
            return None
        self.tokens.append(token.value)
        if text.value is None or not length.value:
            return Piece(token.value, "")
        return Piece(token.value, ctypes.string_at(text.value, length.value).decode())

    def stop(self) -> None:
        """Ends the answer here."""
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
        """The answer to a conversation: all of it, each time; what was computed before is used again.

        What is ``None`` is as the model's ``generation_config.json`` says. ``sampling`` are ``temperature``, ``top_k``, ``top_p``,
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
        """What goes on from here and ``text``, in which with ``parse_special`` names of special tokens stand for them."""
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
        """Takes tokens in."""
        array = (c_uint32 * len(tokens))(*[int(token) for token in tokens])
        self._interruptible(lambda: call("session_feed", self.handle, array, len(array)))

    def _interruptible(self, work: Callable[[], int]) -> int:
        """Computes what Ctrl-C may end."""
        try:
            return interruptible(work, self.cancel)
        except KeyboardInterrupt:
            # One that came when the work had ended.
            self.clear_cancel()
            raise

    def feed_embeddings(self, vectors: "Union[Sequence[float], ArrayLike]") -> None:
        """Takes vectors in place of tokens' embeddings, one after the other: what another model makes of a picture, for one.

        A flat sequence of floats or an array of NumPy ``[vectors, width]``.
        """
        if hasattr(vectors, "__array_interface__"):
            import numpy as np

            array = np.ascontiguousarray(vectors, dtype=np.float32)
            call("session_feed_embeddings", self.handle, array.ctypes.data_as(ctypes.POINTER(c_float)), array.size)
            return
        numbers: Any = vectors
        call("session_feed_embeddings", self.handle, (c_float * len(numbers))(*numbers), len(numbers))

    def logits(self) -> "NDArray[np.float32]":
        """The logits after the last token, ``[vocabulary]``, as a new array of NumPy."""
        try:
            import numpy as np
        except ImportError as error:
            raise ImportError("logits are an array of NumPy, which is not installed: pip install numpy") from error
        logits = np.empty(self._model.vocabulary, dtype=np.float32)
        call("session_logits", self.handle, logits.ctypes.data_as(ctypes.POINTER(c_float)), logits.size)
        return logits

    def fork(self) -> "Session":
        """A second session that goes on from here by itself."""
        return Session(self._model, made("session_fork", self.handle))

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
        count = whole(tokens, "tokens")
        self._interruptible(lambda: call("session_rewind", self.handle, count, 1, None))

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Saves the session to a file: see :meth:`Model.load`."""
        call("session_save", self.handle, c_path(path))

    @property
    def position(self) -> int:
        """How many tokens it holds."""
        tokens = c_size_t()
        call("session_position", self.handle, byref(tokens))
        return tokens.value

    @property
    def tokens(self) -> List[int]:
        """The tokens that it holds."""
        tokens, count = c_void_p(), c_size_t()
        call("session_tokens", self.handle, byref(tokens), byref(count))
        return take_tokens(tokens, count.value)
