"""Compares objects and parameters with those of `openai` itself."""

import inspect
from pathlib import Path

import openai
import pytest
from openai.resources.chat.completions import Completions as OpenAIChat
from openai.resources.completions import Completions as OpenAIText
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage

import kinglet

CHAT = [{"role": "user", "content": "Tell me a story about a dog."}]


def test_completions_validate(model):
    made = model.chat.completions.create(messages=CHAT, max_tokens=12, seed=1, n=2, logprobs=True, top_logprobs=3)
    for strict in (False, True):
        completion = ChatCompletion.model_validate(made, strict=strict)
    assert completion.to_dict(exclude_unset=True) == made.to_dict()
    assert completion.id.startswith("chatcmpl-") and completion.created > 1.7e9
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.choices[0].message.content != completion.choices[1].message.content
    assert {choice.finish_reason for choice in completion.choices} == {"length"}
    usage = completion.usage
    assert usage.completion_tokens == 24 and usage.total_tokens == usage.prompt_tokens + 24
    # A second request has another id.
    assert model.chat.completions.create(messages=CHAT, max_tokens=1).id != made.id


def test_chunks_validate_and_are_the_whole_answer(model):
    request = {"messages": CHAT, "max_tokens": 12, "seed": 1, "n": 2, "logprobs": True}
    whole = ChatCompletion.model_validate(model.chat.completions.create(**request))
    made = list(model.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    chunks = [ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in made]
    assert {(chunk.id, chunk.created, chunk.object) for chunk in chunks} == {
        (chunks[0].id, chunks[0].created, "chat.completion.chunk")
    }
    assert all("usage" in chunk and chunk["usage"] is None for chunk in made[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    for choice in whole.choices:
        parts = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert parts[0].delta.role == "assistant"
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [choice.finish_reason]
        entries = [entry for part in parts if part.logprobs for entry in part.logprobs.content]
        assert entries == choice.logprobs.content
    # Without a request there is no usage.
    assert all("usage" not in chunk for chunk in model.chat.completions.create(messages=CHAT, max_tokens=2, stream=True))


def test_text_completions_validate(model):
    request = {"prompt": ["Once upon a time", "The cat"], "n": 2, "seed": 3, "logprobs": 2}
    made = model.completions.create(**request)
    completion = Completion.model_validate(made, strict=True)
    assert completion.to_dict(exclude_unset=True) == made.to_dict()
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    # OpenAI's default.
    assert completion.usage.completion_tokens == 4 * 16
    prompts = sum(len(model.encode(text, add_special=True)) for text in request["prompt"])
    assert completion.usage.prompt_tokens == prompts
    for choice in completion.choices:
        assert "".join(choice.logprobs.tokens) == choice.text
        places = list(zip(choice.logprobs.text_offset, choice.logprobs.tokens))
        assert all(choice.text[offset:].startswith(token) for offset, token in places)
        assert all(len(top) >= 2 for top in choice.logprobs.top_logprobs)
    streamed = [""] * 4
    for piece in model.completions.create(**request, stream=True):
        streamed[piece.choices[0].index] += piece.choices[0].text
    assert streamed == [choice.text for choice in completion.choices]
    # A continuation of tokens equals that of their text, and echoed text comes first.
    tokens = model.encode("Once upon a time", add_special=True)
    alone = model.completions.create(prompt=tokens, seed=3)
    assert alone.choices[0].text == completion.choices[0].text
    echoed = model.completions.create(prompt="Once upon a time", seed=3, echo=True, max_tokens=4)
    assert echoed.choices[0].text.startswith("Once upon a time" + completion.choices[0].text[:5])


def test_every_parameter_of_openai_is_known_and_none_is_not_given(model):
    for create, resource, first in [
        (model.chat.completions.create, OpenAIChat, {"messages": CHAT, "max_tokens": 4}),
        (model.completions.create, OpenAIText, {"prompt": "Once", "max_tokens": 4}),
    ]:
        names = [name for name in inspect.signature(resource.create).parameters if name not in ("self", *first)]
        assert len(names) > 15
        plain = create(**first, seed=2).choices
        for nothing in (None, openai.NOT_GIVEN, openai.omit):
            values = {**dict.fromkeys(names, nothing), **first, "seed": 2}
            assert create(**values).choices == plain, nothing
        with pytest.raises(TypeError, match="unexpected keyword argument 'temprature'"):
            create(**first, temprature=1)
        with pytest.raises(TypeError):
            create()
        # Not positional, as in openai.
        with pytest.raises(TypeError):
            create(CHAT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"max_tokens": 0},
        {"max_tokens": 4, "max_completion_tokens": 5},
        {"temperature": -1},
        {"top_p": 2},
        {"top_logprobs": 2},
        {"logprobs": True, "top_logprobs": 21},
        {"stream_options": {"include_usage": True}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"functions": [{"name": "f"}]},
        {"stop": [""]},
        {"logit_bias": {"-1": 1}},
        {"extra_body": {"topk": 1}},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused(model, wrong):
    with pytest.raises((ValueError, kinglet.KingletError)) as error:
        model.chat.completions.create(**{"messages": CHAT, "max_tokens": 4, **wrong})
    assert len(str(error.value)) > 10


@pytest.mark.parametrize("wrong", [{"best_of": 2}, {"suffix": "the end"}, {"echo": True, "logprobs": 1}, {"prompt": []}])
def test_what_is_not_supported_of_texts_is_refused(model, wrong):
    with pytest.raises(ValueError):
        model.completions.create(**{"prompt": "Once", **wrong})


def test_what_changes_nothing_here_is_taken(model):
    request = {"messages": CHAT, "max_tokens": 4, "seed": 1}
    plain = model.chat.completions.create(**request).choices
    more = {"model": "gpt-4o", "user": "me", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "timeout": 60}
    more.update(response_format={"type": "text"}, modalities=["text"], extra_headers={}, extra_query={}, logprobs=False)
    more.update(reasoning_effort="low", parallel_tool_calls=True, tool_choice="auto", stream=False, extra_body={})
    assert model.chat.completions.create(**request, **more).choices == plain


def test_options_reach_the_sampler(model):
    def say(**options):
        return model.chat.completions.create(**{"messages": CHAT, "max_tokens": 12, **options}).choices[0]

    greedy = say(temperature=0).message.content
    assert say(top_p=0, seed=1).message.content == greedy
    assert say(extra_body={"top_k": 1}).message.content == greedy
    assert say(max_tokens=None, max_completion_tokens=12, temperature=0).message.content == greedy
    assert say(temperature=0, seed=-1).message.content == greedy
    first = model.encode(greedy)[0]
    assert not say(temperature=0, logit_bias={str(first): -100}).message.content.startswith(model.decode([first]))
    assert say(temperature=0, logit_bias={first: 100}).message.content == model.decode([first]) * 12
    word = greedy.split()[2]
    for stop in (word, [word], ["not there", word]):
        stopped = say(temperature=0, stop=stop)
        assert stopped.message.content == greedy[: greedy.index(word)] and stopped.finish_reason == "stop"
    ended = model.chat.completions.create(messages=CHAT, temperature=0, logprobs=True)
    assert ended.choices[0].finish_reason == "stop"
    # The stop token counts but is not part of the answer.
    assert len(ended.choices[0].logprobs.content) == ended.usage.completion_tokens - 1
    ids = model.encode(greedy)
    assert say(temperature=0, extra_body={"stop_token_ids": [ids[1]]}).message.content == model.decode(ids[:1])
    variables = {"chat_template_kwargs": {"add_generation_prompt": True}}
    assert say(temperature=0, extra_body=variables).message.content == greedy


def test_probabilities_are_those_of_the_logits(model):
    numpy = pytest.importorskip("numpy")
    made = model.chat.completions.create(messages=CHAT, max_tokens=6, seed=4, logprobs=True, top_logprobs=5)
    session = model.session()
    session.feed(model.encode(model.render(CHAT), parse_special=True))
    text = ""
    for entry in made.choices[0].logprobs.content:
        logits = session.logits().astype("float64")
        logprobs = logits - logits.max()
        logprobs -= numpy.log(numpy.exp(logprobs).sum())
        best = [model.decode([int(token)], skip_special=False) for token in numpy.argsort(-logprobs)[:5]]
        assert [top.token for top in entry.top_logprobs] == best
        assert abs(entry.top_logprobs[0].logprob - logprobs.max()) < 1e-4
        (token,) = [token for token in range(len(logits)) if model.decode([token], skip_special=False) == entry.token]
        assert abs(entry.logprob - logprobs[token]) < 1e-4
        assert bytes(entry.bytes).decode() == entry.token
        session.feed([token])
        text += entry.token
    assert text == made.choices[0].message.content


def test_messages_have_all_forms_of_openai(model):
    def prompt(messages):
        return model.chat.completions.create(messages=messages, temperature=0, max_tokens=4)

    turns = [{"role": "system", "content": "Be kind."}, *CHAT, {"role": "assistant", "content": ""}, {"role": "user", "content": "Go on!"}]
    plain = prompt(turns)
    parts = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": [{"type": "text", "text": CHAT[0]["content"]}], "name": None},
        ChatCompletionMessage(role="assistant", content=None),
        {"role": "user", "content": "Go on!"},
    ]
    for messages in (parts, tuple(parts), iter(parts)):
        made = prompt(messages)
        assert made.usage.prompt_tokens == plain.usage.prompt_tokens
        assert made.choices == plain.choices
    # The model's answer goes back unchanged.
    answered = prompt([*CHAT, plain.choices[0].message, {"role": "user", "content": "Go on!"}])
    validated = ChatCompletion.model_validate(plain).choices[0].message
    assert prompt([*CHAT, validated, {"role": "user", "content": "Go on!"}]).choices == answered.choices


def test_tools_and_their_calls_reach_the_template(model, tmp_path):
    for file in Path(model.path).iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.jinja").write_text("{{ messages | tojson }}{{ tools | tojson }}{{ reasoning_effort }}")
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    history = [
        {"role": "user", "content": "What is the weather in Bern?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "rain"}]},
    ]
    plain = [*history[:2], {**history[2], "content": "rain"}]
    with kinglet.Model(tmp_path) as shows:

        def tokens(**options):
            return shows.chat.completions.create(messages=history, max_tokens=1, **options).usage.prompt_tokens

        def expected(**options):
            return len(shows.encode(shows.render(plain, **options), parse_special=True))

        shown = shows.render(plain, tools=tools)
        # Null content counts as absent for templates.
        assert shown.count('"content"') == 2 and "call_1" in shown and "weather" in shown
        assert tokens() == tokens(tools=tools, tool_choice="none") == tokens(tools=None) == expected()
        assert tokens(tools=tools) == tokens(tools=tools, tool_choice="auto") == expected(tools=tools) > expected()
        high = expected(variables={"reasoning_effort": "high"})
        assert tokens(reasoning_effort="high") == high > expected()
        assert tokens(extra_body={"chat_template_kwargs": {"reasoning_effort": "high"}}) == high
