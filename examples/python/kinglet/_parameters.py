"""The parameters of :meth:`create`, with the names and meanings of ``openai``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Optional, Sequence, TypedDict, Union

from ._library import Handle
from ._options import SAMPLING, Tools, generation_options, real, whole

if TYPE_CHECKING:
    from typing_extensions import Literal


class CommonParameters(TypedDict, total=False):
    """Parameters shared by chats and continuations. None means not given."""

    model: Optional[str]
    frequency_penalty: Optional[float]
    logit_bias: Optional[Mapping[Any, float]]
    max_tokens: Optional[int]
    n: Optional[int]
    presence_penalty: Optional[float]
    seed: Optional[int]
    stop: Union[str, Sequence[str], None]
    stream_options: Optional[Mapping[str, Any]]
    temperature: Optional[float]
    top_p: Optional[float]
    user: Optional[str]
    extra_headers: Optional[Mapping[str, str]]
    extra_query: Optional[Mapping[str, object]]
    extra_body: Optional[Mapping[str, Any]]
    timeout: Optional[float]


class ChatParameters(CommonParameters, total=False):
    """Parameters of a chat."""

    audio: None
    function_call: None
    functions: None
    logprobs: Optional[bool]
    max_completion_tokens: Optional[int]
    metadata: Optional[Mapping[str, str]]
    modalities: Optional[Sequence[Literal["text"]]]
    moderation: None
    parallel_tool_calls: Optional[bool]
    prediction: Optional[Mapping[str, Any]]
    prompt_cache_key: Optional[str]
    prompt_cache_options: Optional[Mapping[str, Any]]
    prompt_cache_retention: Optional[str]
    reasoning_effort: Optional[str]
    response_format: Optional[Mapping[str, Any]]
    safety_identifier: Optional[str]
    service_tier: Optional[str]
    store: Optional[bool]
    tool_choice: Optional[Literal["none", "auto"]]
    tools: Optional[Iterable[Mapping[str, Any]]]
    top_logprobs: Optional[int]
    verbosity: Optional[str]
    web_search_options: None


class TextParameters(CommonParameters, total=False):
    """Parameters of continuations of a text."""

    best_of: Optional[int]
    echo: Optional[bool]
    logprobs: Optional[int]
    suffix: Optional[str]


def given(parameters: Mapping[str, Any], known: type, where: str) -> Dict[str, Any]:
    """The parameters that were given. Besides None, ``openai`` has values that mean "not given"."""
    for name in parameters:
        if name not in known.__annotations__ and name not in CommonParameters.__annotations__:
            raise TypeError(f"{where}.create() got an unexpected keyword argument {name!r}")
    return {name: value for name, value in parameters.items() if value is not None and not omitted(value)}


def omitted(value: object) -> bool:
    """Whether a value is one of those that mean "not given" in ``openai``."""
    return type(value).__name__ in ("NotGiven", "Omit")


def refuse(parameters: Mapping[str, Any]) -> None:
    """Refuses parameters that would change the answer but are not supported."""
    for name in ("audio", "function_call", "functions", "moderation", "web_search_options"):
        if name in parameters:
            raise ValueError(f"{name} is not supported")
    if any(kind != "text" for kind in parameters.get("modalities", [])):
        raise ValueError(f"modalities is {parameters['modalities']!r}; answers are text only")
    form = parameters.get("response_format", {"type": "text"})
    kind = form.get("type") if isinstance(form, Mapping) else form
    if kind != "text":
        raise ValueError(f"response_format is {kind!r}; constrained output is not supported, only \"text\"")
    if parameters.get("suffix"):
        raise ValueError("suffix is not supported: models can only continue a text")
    if parameters.get("tool_choice", "auto") not in ("auto", "none"):
        raise ValueError(f"tool_choice is {parameters['tool_choice']!r}; a tool call can't be forced: use \"auto\" or \"none\"")


def tools(parameters: Mapping[str, Any]) -> Tools:
    """The tools that the template shows."""
    return None if parameters.get("tool_choice") == "none" else parameters.get("tools")


def count(parameters: Mapping[str, Any]) -> int:
    """The number of answers."""
    number = whole(parameters.get("n", 1), "n", 1)
    if number > 128:
        raise ValueError(f"n is {number}; the maximum is 128")
    return number


def max_tokens(parameters: Mapping[str, Any]) -> Optional[int]:
    """The maximum number of tokens of an answer, which has two names."""
    names = [name for name in ("max_completion_tokens", "max_tokens") if name in parameters]
    values = {whole(parameters[name], name, 1) for name in names}
    if len(values) > 1:
        raise ValueError("max_tokens and max_completion_tokens are the same option, but have different values")
    return values.pop() if values else None


def alternatives(parameters: Mapping[str, Any]) -> Optional[int]:
    """The number of alternatives per token of a chat; None: no probabilities."""
    top = whole(parameters.get("top_logprobs", 0), "top_logprobs")
    if top > 20:
        raise ValueError(f"top_logprobs is {top}; the maximum is 20")
    if not parameters.get("logprobs"):
        if "top_logprobs" in parameters:
            raise ValueError("top_logprobs needs logprobs=True")
        return None
    return top


def timeout(parameters: Mapping[str, Any]) -> Optional[float]:
    """Timeout of the whole request, in seconds."""
    return real(parameters["timeout"], "timeout") if "timeout" in parameters else None


def includes_usage(parameters: Mapping[str, Any], stream: bool) -> bool:
    """Whether a stream ends with the usage."""
    options = parameters.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise ValueError("stream_options needs stream=True")
    if not isinstance(options, Mapping):
        raise TypeError(f"stream_options must be a dict, not {type(options).__name__}")
    unknown = set(options) - {"include_usage", "include_obfuscation"}
    if unknown:
        raise ValueError(f"stream_options: unknown option {sorted(unknown)[0]!r}; expected \"include_usage\"")
    return bool(options.get("include_usage"))


_BODY = ["chat_template_kwargs", "ignore_eos", "stop_token_ids"]


def options(parameters: Mapping[str, Any], index: int, most: Optional[int]) -> Handle:
    """Options of answer number `index`."""
    body = dict(parameters.get("extra_body", {}))
    sampling = {name: parameters.get(name) for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty")}
    for name in body:
        if name not in SAMPLING and name not in _BODY:
            raise ValueError(f"extra_body: unknown option {name!r}; expected one of {', '.join(SAMPLING + _BODY)}")
    sampling.update((name, value) for name, value in body.items() if name in SAMPLING)
    if sampling["top_p"] == 0:
        # Practically greedy, which the library expresses differently.
        sampling.update(temperature=0, top_p=None)
    variables = {name: parameters[name] for name in ("reasoning_effort", "verbosity") if name in parameters}
    variables.update(body.get("chat_template_kwargs") or {})
    seed = parameters.get("seed")
    stop: Union[str, List[str]] = parameters.get("stop", [])
    return generation_options(
        max_tokens=most,
        # Answers to one request differ.
        seed=None if seed is None else (whole(seed, "seed", -(2**63)) + index) % 2**64,
        stop=stop,
        stop_token_ids=body.get("stop_token_ids"),
        ignore_eos=body.get("ignore_eos"),
        tools=tools(parameters),
        variables=variables,
        logit_bias=parameters.get("logit_bias"),
        sampling=sampling,
    )
