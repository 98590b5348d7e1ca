"""``model.chat.completions`` and ``model.completions``, with the methods of ``openai``'s client."""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    Generator,
    Iterable,
    List,
    Literal,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
    overload,
)

from . import _parameters as parameters_of
from ._answers import Answers
from ._library import library_version
from ._options import Message, json_of, openai_messages, token_id, whole
from ._session import Generation, Session
from ._streams import AsyncStream, Stream, Worker
from .types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    Choice,
    ChoiceDelta,
    ChoiceLogprobs,
    ChunkChoice,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    FinishReason,
    TokenLogprob,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._model import Model

Prompt = Union[str, Sequence[str], Sequence[int], Sequence[Sequence[int]]]

# Tokens of a continuation by default, as in OpenAI's interface.
_TEXT_TOKENS = 16


class _Chat:
    """A request to a chat, and its results in the form of OpenAI's interface."""

    def __init__(self, model: "Model", messages: Iterable[Message], stream: bool, parameters: Mapping[str, Any]) -> None:
        given = parameters_of.given(parameters, parameters_of.ChatParameters, "chat.completions")
        parameters_of.refuse(given)
        self.usage_wanted = parameters_of.includes_usage(given, stream)
        most = parameters_of.max_tokens(given)
        count = parameters_of.count(given)
        top = parameters_of.alternatives(given)
        encoded = json_of(openai_messages(messages), "messages")
        options = [parameters_of.options(given, index, most) for index in range(count)]

        def job(index: int, answers: Answers) -> Generation:
            return answers.session._chat(encoded, options[index])

        jobs = [lambda answers, index=index: job(index, answers) for index in range(count)]
        self.count = count
        self.answers = Answers(model, jobs, top, parameters_of.timeout(given))
        self.answers.start()
        self.head: Dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": f"kinglet-{library_version()}",
        }

    def whole(self) -> ChatCompletion:
        """All answers, once they are complete."""
        texts = [""] * self.count
        logprobs: List[List[TokenLogprob]] = [[] for _ in texts]
        reasons: List[FinishReason] = ["stop"] * self.count
        with contextlib.closing(self.answers.pieces()) as pieces:
            for piece in pieces:
                texts[piece.answer] += piece.text
                logprobs[piece.answer] += piece.logprobs
                reasons[piece.answer] = piece.finish or "stop"
        choices = [
            Choice(
                index=index,
                message=ChatCompletionMessage(role="assistant", content=text, refusal=None),
                finish_reason=reasons[index],
                logprobs=self._logprobs(logprobs[index]),
            )
            for index, text in enumerate(texts)
        ]
        return ChatCompletion(self.head, object="chat.completion", choices=choices, usage=self.answers.usage())

    def _logprobs(self, entries: List[TokenLogprob]) -> Optional[ChoiceLogprobs]:
        return None if self.answers.top is None else ChoiceLogprobs(content=entries, refusal=None)

    def chunks(self) -> Generator[ChatCompletionChunk, None, None]:
        """The answers, piece by piece."""
        begun = -1
        with contextlib.closing(self.answers.pieces()) as pieces:
            for index, text, logprobs, finish in pieces:
                if index != begun:
                    begun = index
                    yield self._chunk(index, ChoiceDelta(role="assistant", content="", refusal=None), [], None)
                if text or logprobs:
                    yield self._chunk(index, ChoiceDelta(content=text), logprobs, None)
                if finish is not None:
                    yield self._chunk(index, ChoiceDelta(), [], finish)
        if self.usage_wanted:
            yield ChatCompletionChunk(
                self.head, object="chat.completion.chunk", choices=[], usage=self.answers.usage()
            )

    def _chunk(
        self, index: int, delta: ChoiceDelta, logprobs: List[TokenLogprob], finish: Optional[FinishReason]
    ) -> ChatCompletionChunk:
        entries = self._logprobs(logprobs) if logprobs else None
        choice = ChunkChoice(index=index, delta=delta, finish_reason=finish, logprobs=entries)
        chunk = ChatCompletionChunk(self.head, object="chat.completion.chunk", choices=[choice])
        if self.usage_wanted:
            chunk["usage"] = None
        return chunk


class _Text:
    """A request to continue texts, and its results in the form of OpenAI's interface."""

    def __init__(self, model: "Model", prompt: Prompt, stream: bool, parameters: Mapping[str, Any]) -> None:
        given = parameters_of.given(parameters, parameters_of.TextParameters, "completions")
        parameters_of.refuse(given)
        self.usage_wanted = parameters_of.includes_usage(given, stream)
        most = parameters_of.max_tokens(given) or _TEXT_TOKENS
        count = parameters_of.count(given)
        if whole(given.get("best_of", count), "best_of", 1) != count:
            raise ValueError("best_of is not supported: all n answers are returned")
        # 0 requests only the chosen tokens' probabilities; False means not given.
        top = None if given.get("logprobs", False) is False else whole(given["logprobs"], "logprobs")
        if top is not None and top > 20:
            raise ValueError(f"logprobs is {top}; the maximum is 20")
        prompts = _prompts(model, prompt)
        self.echoes = [text if given.get("echo") else "" for text, _ in prompts for _ in range(count)]
        if top is not None and given.get("echo"):
            raise ValueError("logprobs of echoed text are not supported: omit echo or logprobs")
        self.prompt_tokens = sum(len(tokens) for _, tokens in prompts)
        options = [parameters_of.options(given, index, most) for index in range(len(self.echoes))]
        # States of prompts that are continued more than once.
        begun: Dict[int, Session] = {}

        def job(index: int, answers: Answers) -> Generation:
            number = index // count
            tokens = prompts[number][1]
            if count == 1:
                session = answers.work_on(answers.session)
                session.reset()
                return session._continue(tokens, options[index])
            if number not in begun:
                begun.clear()
                begun[number] = answers.work_on(model.session())
                if len(tokens) > 1:
                    begun[number].feed(tokens[:-1])
            return begun[number].fork()._continue(tokens[-1:], options[index])

        jobs = [lambda answers, index=index: job(index, answers) for index in range(len(self.echoes))]
        self.answers = Answers(model, jobs, top, parameters_of.timeout(given))
        self.answers.start()
        self.answers.prompt_tokens = self.prompt_tokens
        self.head: Dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": f"kinglet-{library_version()}",
        }

    def whole(self) -> Completion:
        """All continuations, once they are complete."""
        texts = list(self.echoes)
        logprobs: List[List[TokenLogprob]] = [[] for _ in texts]
        reasons: List[FinishReason] = ["stop"] * len(texts)
        with contextlib.closing(self.answers.pieces()) as pieces:
            for piece in pieces:
                texts[piece.answer] += piece.text
                logprobs[piece.answer] += piece.logprobs
                reasons[piece.answer] = piece.finish or "stop"
        choices = [
            CompletionChoice(
                index=index, text=text, finish_reason=reasons[index], logprobs=self._logprobs(logprobs[index], 0)
            )
            for index, text in enumerate(texts)
        ]
        return Completion(self.head, choices=choices, usage=self.answers.usage())

    def _logprobs(self, entries: List[TokenLogprob], offset: int) -> Optional[CompletionLogprobs]:
        if self.answers.top is None:
            return None
        tokens = [entry.token for entry in entries]
        offsets = [offset + sum(map(len, tokens[:place])) for place in range(len(tokens))]
        return CompletionLogprobs(
            tokens=tokens,
            token_logprobs=[entry.logprob for entry in entries],
            top_logprobs=[{other.token: other.logprob for other in entry.top_logprobs} for entry in entries],
            text_offset=offsets,
        )

    def chunks(self) -> Generator[Completion, None, None]:
        """The continuations, piece by piece."""
        begun, offset = -1, 0
        with contextlib.closing(self.answers.pieces()) as pieces:
            for index, text, logprobs, finish in pieces:
                if index != begun:
                    begun, offset = index, 0
                    text = self.echoes[index] + text
                if text or logprobs or finish is not None:
                    entries = self._logprobs(logprobs, offset) if logprobs else None
                    choice = CompletionChoice(index=index, text=text, finish_reason=finish, logprobs=entries)
                    yield self._chunk([choice])
                offset += sum(len(entry.token) for entry in logprobs)
        if self.usage_wanted:
            yield Completion(self.head, choices=[], usage=self.answers.usage())

    def _chunk(self, choices: List[CompletionChoice]) -> Completion:
        chunk = Completion(self.head, choices=choices)
        if self.usage_wanted:
            chunk["usage"] = None
        return chunk


def _prompts(model: "Model", prompt: Prompt) -> List[Tuple[str, List[int]]]:
    """Prompts as text and as tokens."""
    entries: List[Any]
    if isinstance(prompt, str):
        entries = [prompt]
    elif isinstance(prompt, (bytes, Mapping)) or not isinstance(prompt, Iterable):
        raise TypeError(f"prompt must be a str or a list, not {type(prompt).__name__}")
    else:
        entries = list(prompt)
        if entries and not isinstance(entries[0], (str, Iterable)):
            entries = [entries]
    if not entries:
        raise ValueError("there is no prompt")
    texts: List[Tuple[str, List[int]]] = []
    for entry in entries:
        if isinstance(entry, str):
            texts.append((entry, model.encode(entry, add_special=True, parse_special=True)))
        else:
            tokens = [token_id(token, "prompt") for token in entry]
            texts.append((model.decode(tokens), tokens))
        if not texts[-1][1]:
            raise ValueError("a prompt has no tokens")
    return texts


class ChatCompletions:
    """``model.chat.completions``."""

    def __init__(self, model: "Model") -> None:
        self._model = model

    @overload
    def create(
        self,
        *,
        messages: Iterable[Message],
        stream: Optional[Literal[False]] = None,
        **parameters: Unpack[parameters_of.ChatParameters],
    ) -> ChatCompletion: ...

    @overload
    def create(
        self,
        *,
        messages: Iterable[Message],
        stream: Literal[True],
        **parameters: Unpack[parameters_of.ChatParameters],
    ) -> Stream[ChatCompletionChunk]: ...

    @overload
    def create(
        self,
        *,
        messages: Iterable[Message],
        stream: Optional[bool],
        **parameters: Unpack[parameters_of.ChatParameters],
    ) -> Union[ChatCompletion, Stream[ChatCompletionChunk]]: ...

    def create(
        self, *, messages: Iterable[Message], stream: Optional[bool] = None, **parameters: Any
    ) -> Union[ChatCompletion, Stream[ChatCompletionChunk]]:
        """Answers a conversation, at once or, with ``stream=True``, in chunks.

        Pass the whole conversation each time; states of earlier calls are reused. Parameters have the names and meanings
        of ``openai``; ``extra_body`` takes the other sampling options, ``stop_token_ids``, ``ignore_eos`` and ``chat_template_kwargs``.
        """
        streamed = bool(stream) and not parameters_of.omitted(stream)
        request = _Chat(self._model, messages, streamed, parameters)
        return Stream(request.chunks(), request.answers) if streamed else request.whole()


class Completions:
    """``model.completions``."""

    def __init__(self, model: "Model") -> None:
        self._model = model

    @overload
    def create(
        self,
        *,
        prompt: Prompt,
        stream: Optional[Literal[False]] = None,
        **parameters: Unpack[parameters_of.TextParameters],
    ) -> Completion: ...

    @overload
    def create(
        self,
        *,
        prompt: Prompt,
        stream: Literal[True],
        **parameters: Unpack[parameters_of.TextParameters],
    ) -> Stream[Completion]: ...

    @overload
    def create(
        self,
        *,
        prompt: Prompt,
        stream: Optional[bool],
        **parameters: Unpack[parameters_of.TextParameters],
    ) -> Union[Completion, Stream[Completion]]: ...

    def create(
        self, *, prompt: Prompt, stream: Optional[bool] = None, **parameters: Any
    ) -> Union[Completion, Stream[Completion]]:
        """Continues a text, by at most 16 tokens unless ``max_tokens`` says otherwise, at once or in pieces."""
        streamed = bool(stream) and not parameters_of.omitted(stream)
        request = _Text(self._model, prompt, streamed, parameters)
        return Stream(request.chunks(), request.answers) if streamed else request.whole()


class AsyncChatCompletions:
    """``model.chat.completions`` of an :class:`AsyncModel`."""

    def __init__(self, model: "Model") -> None:
        self._model = model

    @overload
    async def create(
        self,
        *,
        messages: Iterable[Message],
        stream: Optional[Literal[False]] = None,
        **parameters: Unpack[parameters_of.ChatParameters],
    ) -> ChatCompletion: ...

    @overload
    async def create(
        self,
        *,
        messages: Iterable[Message],
        stream: Literal[True],
        **parameters: Unpack[parameters_of.ChatParameters],
    ) -> AsyncStream[ChatCompletionChunk]: ...

    @overload
    async def create(
        self,
        *,
        messages: Iterable[Message],
        stream: Optional[bool],
        **parameters: Unpack[parameters_of.ChatParameters],
    ) -> Union[ChatCompletion, AsyncStream[ChatCompletionChunk]]: ...

    async def create(
        self, *, messages: Iterable[Message], stream: Optional[bool] = None, **parameters: Any
    ) -> Union[ChatCompletion, AsyncStream[ChatCompletionChunk]]:
        """Like that of a :class:`Model`, on a separate thread."""
        streamed = bool(stream) and not parameters_of.omitted(stream)
        with contextlib.closing(Worker()) as worker:
            request = await worker.run(lambda: _Chat(self._model, messages, streamed, parameters), _nothing)
            if streamed:
                return AsyncStream(request.chunks(), request.answers)
            return await worker.run(request.whole, request.answers.cancel)


class AsyncCompletions:
    """``model.completions`` of an :class:`AsyncModel`."""

    def __init__(self, model: "Model") -> None:
        self._model = model

    @overload
    async def create(
        self,
        *,
        prompt: Prompt,
        stream: Optional[Literal[False]] = None,
        **parameters: Unpack[parameters_of.TextParameters],
    ) -> Completion: ...

    @overload
    async def create(
        self,
        *,
        prompt: Prompt,
        stream: Literal[True],
        **parameters: Unpack[parameters_of.TextParameters],
    ) -> AsyncStream[Completion]: ...

    @overload
    async def create(
        self,
        *,
        prompt: Prompt,
        stream: Optional[bool],
        **parameters: Unpack[parameters_of.TextParameters],
    ) -> Union[Completion, AsyncStream[Completion]]: ...

    async def create(
        self, *, prompt: Prompt, stream: Optional[bool] = None, **parameters: Any
    ) -> Union[Completion, AsyncStream[Completion]]:
        """Like that of a :class:`Model`, on a separate thread."""
        streamed = bool(stream) and not parameters_of.omitted(stream)
        with contextlib.closing(Worker()) as worker:
            request = await worker.run(lambda: _Text(self._model, prompt, streamed, parameters), _nothing)
            if streamed:
                return AsyncStream(request.chunks(), request.answers)
            return await worker.run(request.whole, request.answers.cancel)


def _nothing() -> None:
    """Preparing a request can't be stopped."""


class Chat:
    """``model.chat``."""

    def __init__(self, model: "Model") -> None:
        self.completions = ChatCompletions(model)


class AsyncChat:
    """``model.chat`` of an :class:`AsyncModel`."""

    def __init__(self, model: "Model") -> None:
        self.completions = AsyncChatCompletions(model)
