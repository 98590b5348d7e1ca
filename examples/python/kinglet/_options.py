"""Converts the caller's options for an answer to options of the library."""

from __future__ import annotations

import json
import operator
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Union

from ._library import Handle, c_text, call, made

SAMPLING = [
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "penalty_last_n", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_last_n",
    "xtc_probability", "xtc_threshold", "temperature_last",
]
"""Indexed by the number in ``enum kinglet_sampling``."""

Message = Mapping[str, Any]
Stop = Union[str, Sequence[str], None]
Tools = Optional[Iterable[Mapping[str, Any]]]
LogitBias = Optional[Mapping[Any, float]]


def whole(value: Any, name: str, least: int = 0) -> int:
    """An integer of any integer type."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{name} is {number}; it must be {least} or more")
    return number


def real(value: Any, name: str) -> float:
    """A number."""
    if isinstance(value, str):
        raise TypeError(f"{name} must be a number, not str")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}") from None


def generation_options(
    *,
    max_tokens: Optional[int] = None,
    seed: Optional[int] = None,
    stop: Stop = None,
    stop_token_ids: Optional[Iterable[int]] = None,
    ignore_eos: Optional[bool] = None,
    tools: Tools = None,
    variables: Optional[Mapping[str, Any]] = None,
    logit_bias: LogitBias = None,
    sampling: Optional[Mapping[str, Any]] = None,
) -> Handle:
    """Options of the library. None means not given: the model's own settings apply."""
    handle = made("generation_options_create")
    options = Handle("generation_options", handle)
    for name, value in (sampling or {}).items():
        if name not in SAMPLING:
            raise TypeError(f"unknown sampling option {name!r}; expected one of {', '.join(SAMPLING)}")
        if value is not None:
            call("generation_options_set", handle, SAMPLING.index(name), real(value, name))
    if max_tokens is not None:
        # For the library 0 means the default.
        call("generation_options_set_max_tokens", handle, whole(max_tokens, "max_tokens", 1))
    if seed is not None:
        # Any integer; negative ones are taken as bits.
        call("generation_options_set_seed", handle, whole(seed, "seed", -(2**63)) % 2**64)
    for text in [stop] if isinstance(stop, str) else stop or []:
        call("generation_options_add_stop", handle, c_text(text, "stop"))
    for token in stop_token_ids or []:
        call("generation_options_add_stop_token", handle, token_id(token, "stop_token_ids"))
    if ignore_eos is not None:
        call("generation_options_set_ignore_eos", handle, int(bool(ignore_eos)))
    if tools is not None:
        call("generation_options_set_tools", handle, json_of([plain(tool) for tool in tools], "tools"))
    if variables is not None:
        call("generation_options_set_variables", handle, json_of(dict(variables), "variables"))
    for token, bias in (logit_bias or {}).items():
        # In OpenAI's interface, which is made for JSON, tokens are strings.
        token = int(token) if isinstance(token, str) else token
        number = real(bias, "logit_bias")
        call("generation_options_add_logit_bias", handle, token_id(token, "logit_bias"), number)
    return options


def token_id(value: Any, name: str) -> int:
    """The number of a token."""
    number = whole(value, name)
    if number >= 2**32:
        raise ValueError(f"{name}: {number} is not a token")
    return number


def json_of(value: Any, name: str) -> bytes:
    """JSON for the library."""
    try:
        return json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} can't be written as JSON: {error}") from None


def plain(value: Any) -> Any:
    """A dict from an object of pydantic, such as those of ``openai``, without unset fields."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(exclude_none=True)
    return dict(value) if isinstance(value, Mapping) else value


def messages_json(messages: Iterable[Message]) -> bytes:
    """Messages in the library's form; the model's template decides what is allowed."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise TypeError(f"messages must be a list of messages, not {type(messages).__name__}")
    return json_of([plain(message) for message in messages], "messages")


_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def openai_messages(messages: Iterable[Message]) -> List[Dict[str, Any]]:
    """Converts messages from OpenAI's form to one that chat templates know: contents as text, "system" in place of "developer"."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise TypeError(f"messages must be a list of messages, not {type(messages).__name__}")
    made_of: List[Dict[str, Any]] = []
    for index, message in enumerate(messages):
        original = plain(message)
        if not isinstance(original, dict):
            raise TypeError(f"messages[{index}] must be a dict, not {type(message).__name__}")
        fields = {name: value for name, value in original.items() if value is not None or name == "content"}
        if fields.get("role") == "developer":
            fields["role"] = "system"
        content = fields.get("content")
        if isinstance(content, (list, tuple)):
            fields["content"] = "".join(_text_of(part, index, number) for number, part in enumerate(content))
        elif content is None and not fields.get("tool_calls"):
            fields["content"] = ""
        elif content is None:
            # Some templates use it to identify a tool call.
            fields["content"] = None
        elif not isinstance(content, str):
            raise TypeError(f"messages[{index}].content must be a str, a list or None, not {type(content).__name__}")
        made_of.append(fields)
    return made_of


def _text_of(part: Any, index: int, number: int) -> str:
    if isinstance(part, str):
        return part
    part = plain(part)
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS:
        raise ValueError(f"messages[{index}].content[{number}]: parts of type {kind!r} are not supported, only text")
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise TypeError(f"messages[{index}].content[{number}] has no text")
    return text
