"""Models."""

from __future__ import annotations

import os
import threading
from ctypes import byref, c_float, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Literal, Mapping, Optional, Sequence, Type, Union, overload

from ._completions import AsyncChat, AsyncCompletions, Chat, Completions
from ._library import Handle, KingletError, c_path, c_text, call, made, take_text, take_tokens
from ._options import SAMPLING, Message, Tools, generation_options, messages_json, whole
from ._session import Session
from ._streams import Stream, Worker
from .types import ChatCompletion, ChatCompletionChunk

if TYPE_CHECKING:
    from typing_extensions import Self


def estimate(path: "str | os.PathLike[str]", context: int = 4096) -> Dict[str, int]:
    """Estimates the memory of the model in the folder ``path`` with one session of ``context`` tokens, in bytes."""
    numbers = [c_uint64() for _ in range(3)]
    call("estimate", c_path(path), None, context, *map(byref, numbers))
    return dict(zip(["weights", "state", "working"], (number.value for number in numbers)))


class Model(Handle):
    """An open model. Thread-safe."""

    def __init__(
        self,
        path: "str | os.PathLike[str]",
        *,
        backend: Optional[str] = None,
        threads: Optional[int] = None,
        context_limit: Optional[int] = None,
    ) -> None:
        # Set before anything can fail, since __del__ reads it.
        self._lock = threading.Lock()
        # Does not refer to the model, so that an unused model is freed at once.
        self._idle: Optional[Handle] = None
        handle = made("model_options_create")
        options = Handle("model_options", handle)
        if backend is not None:
            call("model_options_set_backend", handle, c_text(backend, "backend"))
        if threads is not None:
            call("model_options_set_threads", handle, whole(threads, "threads"))
        if context_limit is not None:
            call("model_options_set_context_limit", handle, whole(context_limit, "context_limit"))
        super().__init__("model", made("model_open", c_path(path), options.handle))
        self.path = os.fspath(path)
        self._vocabulary: Optional[int] = None

    @property
    def chat(self) -> Chat:
        """``model.chat.completions.create(...)``, as in ``openai``'s client."""
        return Chat(self)

    @property
    def completions(self) -> Completions:
        """``model.completions.create(...)``, as in ``openai``'s client."""
        return Completions(self)

    def session(self) -> Session:
        """Creates a session without tokens."""
        return Session(self, made("session_create", self.handle))

    def load(self, path: "str | os.PathLike[str]") -> Session:
        """Loads a session that :meth:`Session.save` saved."""
        return Session(self, made("session_load", self.handle, c_path(path)))

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> List[int]:
        """Tokenizes a text; optionally adds the model's initial tokens, and parses names of special tokens."""
        tokenizer, tokens, count, data = self._tokenizer(), c_void_p(), c_size_t(), text.encode()
        flags = int(add_special) | 2 * int(parse_special)
        call("tokenizer_encode", tokenizer.handle, data, len(data), flags, byref(tokens), byref(count))
        return take_tokens(tokens, count.value)

    def embed(self, tokens: Sequence[int]) -> List[float]:
        """The embeddings of tokens, one after another, as :meth:`Session.feed_embeddings` takes them."""
        width = c_size_t()
        call("model_embedding_width", self.handle, byref(width))
        vectors = (c_float * (len(tokens) * width.value))()
        call("model_embed", self.handle, (c_uint32 * len(tokens))(*tokens), len(tokens), vectors, len(vectors))
        return list(vectors)

    def decode(self, tokens: Sequence[int], *, skip_special: bool = True) -> str:
        """Converts tokens to text."""
        tokenizer, text, length = self._tokenizer(), c_void_p(), c_size_t()
        array = (c_uint32 * len(tokens))(*[int(token) for token in tokens])
        call("tokenizer_decode", tokenizer.handle, array, len(tokens), int(skip_special), byref(text), byref(length))
        return take_text(text, length.value)

    def render(
        self, messages: Iterable[Message], *, tools: Tools = None, variables: Optional[Mapping[str, Any]] = None
    ) -> str:
        """Renders messages with the model's chat template, up to the beginning of the answer."""
        options = generation_options(tools=tools, variables=variables)
        text, length = c_void_p(), c_size_t()
        call("model_render", self.handle, messages_json(messages), options.handle, byref(text), byref(length))
        return take_text(text, length.value)

    def _tokenizer(self) -> Handle:
        return Handle("tokenizer", made("model_tokenizer", self.handle))

    @property
    def description(self) -> str:
        """Describes the model and what it runs on."""
        text = c_void_p()
        call("model_description", self.handle, byref(text))
        return take_text(text)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return Path(self.path).resolve().name or self.path

    @property
    def vocabulary(self) -> int:
        """The number of logits per token."""
        if self._vocabulary is None:
            count = c_size_t()
            call("model_vocabulary", self.handle, byref(count))
            self._vocabulary = count.value
        return self._vocabulary

    def _borrow(self) -> Session:
        """A session for one request: the last request's, with its computed states, if it is free."""
        with self._lock:
            idle, self._idle = self._idle, None
        return self.session() if idle is None else Session(self, idle._release())

    def _give_back(self, session: Session) -> None:
        """Keeps a session for the next request."""
        try:
            session.clear_cancel()
            # Raises an exception if the session has failed.
            session.position  # noqa: B018
        except KingletError:
            session.close()
            return
        with self._lock:
            if self.handle:
                self._idle = Handle("session", session._release())

    def close(self) -> None:
        """Frees the memory now; that of sessions when they are closed too. Later calls raise :class:`KingletError`."""
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is not None:
            idle.close()
        if hasattr(self, "_handle"):
            super().close()

    @overload
    def create_chat_completion(
        self, messages: Iterable[Message], *, stream: Literal[False] = False, **options: Any
    ) -> ChatCompletion: ...

    @overload
    def create_chat_completion(
        self, messages: Iterable[Message], *, stream: Literal[True], **options: Any
    ) -> Stream[ChatCompletionChunk]: ...

    @overload
    def create_chat_completion(
        self, messages: Iterable[Message], *, stream: bool, **options: Any
    ) -> Union[ChatCompletion, Stream[ChatCompletionChunk]]: ...

    def create_chat_completion(
        self, messages: Iterable[Message], *, stream: bool = False, **options: Any
    ) -> Union[ChatCompletion, Stream[ChatCompletionChunk]]:
        """``chat.completions.create`` with all sampling options by their names."""
        body = dict(options.pop("extra_body", None) or {})
        for name in [*SAMPLING, "variables"]:
            if name in options and name not in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
                body["chat_template_kwargs" if name == "variables" else name] = options.pop(name)
        return self.chat.completions.create(messages=messages, stream=stream, extra_body=body, **options)


class AsyncModel:
    """A model for asyncio: computation runs on threads and does not block the event loop.

        async with await kinglet.AsyncModel.open("path/to/model") as model:
            async for text in model.session().chat(messages):
                ...
    """

    def __init__(self, model: "Model | str | os.PathLike[str]", **options: Any) -> None:
        self.model = model if isinstance(model, Model) else Model(model, **options)
        """The underlying model."""

    @classmethod
    async def open(cls, path: "str | os.PathLike[str]", **options: Any) -> Self:
        """Opens a model without blocking the event loop."""
        worker = Worker()
        try:
            return cls(await worker.run(lambda: Model(path, **options), lambda: None))
        finally:
            worker.close()

    @property
    def chat(self) -> AsyncChat:
        """``await model.chat.completions.create(...)``, as in ``openai``'s ``AsyncOpenAI``."""
        return AsyncChat(self.model)

    @property
    def completions(self) -> AsyncCompletions:
        """``await model.completions.create(...)``, as in ``openai``'s ``AsyncOpenAI``."""
        return AsyncCompletions(self.model)

    def session(self) -> Session:
        """Creates a session without tokens, whose answers also work with ``async for``."""
        return self.model.session()

    async def close(self) -> None:
        """Frees the memory."""
        self.model.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()
