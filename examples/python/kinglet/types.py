"""Results of :mod:`kinglet` in the form of OpenAI's interface, with the fields and names of ``openai.types``.

Each object is a dict, so ``openai``'s own classes validate it and ``json`` writes it. Its fields are also attributes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Dict, List, Literal, Optional

__all__ = [
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatCompletionMessage",
    "Choice",
    "ChoiceDelta",
    "ChoiceLogprobs",
    "ChunkChoice",
    "Completion",
    "CompletionChoice",
    "CompletionLogprobs",
    "CompletionUsage",
    "FinishReason",
    "PromptTokensDetails",
    "TokenLogprob",
    "TopLogprob",
]

FinishReason = Literal["stop", "length"]


class Object(Dict[str, Any]):
    """A dict whose fields are attributes."""

    _defaults: ClassVar[Dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        # Optional fields, not declared with values: class attributes would hide the dicts' values.
        cls._defaults = {name: value for name, value in vars(cls).items() if value is None and not name.startswith("_")}
        for name in cls._defaults:
            delattr(cls, name)

    # Type checkers see only the declared fields.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            try:
                return self[name] if name in self else self._defaults[name]
            except KeyError:
                raise AttributeError(f"{type(self).__name__} has no field {name!r}") from None

        def __setattr__(self, name: str, value: Any) -> None:
            self[name] = value

    def to_dict(self) -> Dict[str, Any]:
        """Converts to plain dicts and lists."""
        plain: Dict[str, Any] = json.loads(json.dumps(self))
        return plain

    def model_dump(self, *, exclude_none: bool = False) -> Dict[str, Any]:
        """Plain dicts and lists, optionally without ``None``."""
        plain: Dict[str, Any] = _without_none(self.to_dict()) if exclude_none else self.to_dict()
        return plain

    def model_dump_json(self, *, indent: Optional[int] = None) -> str:
        """The object as JSON."""
        return json.dumps(self, indent=indent, ensure_ascii=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value


class PromptTokensDetails(Object):
    """Details of the prompt's tokens."""

    cached_tokens: int
    """Tokens that an earlier call computed."""


class CompletionUsage(Object):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(Object):
    """A likely token at a position."""

    token: str
    logprob: float
    bytes: Optional[List[int]]


class TokenLogprob(Object):
    """A token of an answer, and the likely alternatives."""

    token: str
    logprob: float
    bytes: Optional[List[int]]
    top_logprobs: List[TopLogprob]


class ChoiceLogprobs(Object):
    """Natural logarithms of the model's probabilities, before sampling options change them."""

    content: List[TokenLogprob]
    refusal: None


class ChatCompletionMessage(Object):
    """An answer. It can be appended to the messages as it is."""

    role: Literal["assistant"]
    content: str
    refusal: None
    tool_calls: None = None
    function_call: None = None
    annotations: None = None
    audio: None = None


class Choice(Object):
    """One of the answers."""

    index: int
    message: ChatCompletionMessage
    finish_reason: FinishReason
    logprobs: Optional[ChoiceLogprobs]


class ChatCompletion(Object):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: List[Choice]
    usage: CompletionUsage
    system_fingerprint: Optional[str]
    service_tier: None = None


class ChoiceDelta(Object):
    """What a chunk adds to a message."""

    role: Optional[Literal["assistant"]] = None
    content: Optional[str] = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class ChunkChoice(Object):
    """What a chunk adds to an answer."""

    index: int
    delta: ChoiceDelta
    finish_reason: Optional[FinishReason]
    logprobs: Optional[ChoiceLogprobs]


class ChatCompletionChunk(Object):
    """A piece of the answers as they are generated."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: List[ChunkChoice]
    usage: Optional[CompletionUsage] = None
    system_fingerprint: Optional[str]
    service_tier: None = None


class CompletionLogprobs(Object):
    """Like :class:`ChoiceLogprobs`, in the form of text completions."""

    tokens: List[str]
    token_logprobs: List[float]
    top_logprobs: List[Dict[str, float]]
    text_offset: List[int]


class CompletionChoice(Object):
    """A continuation of a text; in a stream, what it adds, with a reason only in the last piece."""

    index: int
    text: str
    finish_reason: Optional[FinishReason]
    logprobs: Optional[CompletionLogprobs]


class Completion(Object):
    """Continuations of a text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: List[CompletionChoice]
    usage: Optional[CompletionUsage] = None
    system_fingerprint: Optional[str]
