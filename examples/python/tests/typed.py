"""A program's types; test_types.py runs mypy on it."""

from typing import Union

from typing_extensions import assert_type

import kinglet
from kinglet.types import ChatCompletion, ChatCompletionChunk, Completion, FinishReason

messages = [{"role": "user", "content": "Hello"}]


def chat(model: kinglet.Model, either: bool) -> None:
    create = model.chat.completions.create
    assert_type(create(messages=messages), ChatCompletion)
    assert_type(create(messages=messages, stream=False), ChatCompletion)
    assert_type(create(messages=messages, stream=None, temperature=None, stop="."), ChatCompletion)
    stream = create(messages=messages, stream=True, stream_options={"include_usage": True})
    assert_type(stream, kinglet.Stream[ChatCompletionChunk])
    assert_type(create(messages=messages, stream=either), Union[ChatCompletion, kinglet.Stream[ChatCompletionChunk]])
    assert_type(create(messages=messages).choices[0].message.content, str)
    assert_type(create(messages=messages).choices[0].finish_reason, FinishReason)
    assert_type(create(messages=messages).usage.total_tokens, int)
    for chunk in stream:
        text: str = chunk.choices[0].delta.content or ""
        print(text)
    with create(messages=messages, stream=True) as opened:
        assert_type(opened, kinglet.Stream[ChatCompletionChunk])
    assert_type(model.create_chat_completion(messages, stream=True, top_k=3), kinglet.Stream[ChatCompletionChunk])
    assert_type(model.completions.create(prompt="Once"), Completion)
    assert_type(model.completions.create(prompt=[[1, 2]], stream=True), kinglet.Stream[Completion])


async def chat_async(model: kinglet.AsyncModel) -> None:
    assert_type(await model.chat.completions.create(messages=messages, n=2), ChatCompletion)
    stream = await model.chat.completions.create(messages=messages, stream=True)
    assert_type(stream, kinglet.AsyncStream[ChatCompletionChunk])
    async for chunk in stream:
        assert_type(chunk, ChatCompletionChunk)
    async for text in model.session().chat(messages):
        assert_type(text, str)
    async with await kinglet.AsyncModel.open("folder") as opened:
        assert_type(opened, kinglet.AsyncModel)


def sessions(model: kinglet.Model) -> None:
    with model.session() as session:
        assert_type(session, kinglet.Session)
        for text in session.chat(messages, top_k=40, max_tokens=None):
            assert_type(text, str)
        session.feed([1, 2])
        assert_type(float(session.logits()[0]), float)
        assert_type(session.tokens, list[int])


def wrong(model: kinglet.Model) -> None:
    model.chat.completions.create(messages=messages, temprature=1)  # type: ignore[call-overload]
    model.chat.completions.create(messages=messages, temperature="hot")  # type: ignore[call-overload]
    model.chat.completions.create()  # type: ignore[call-overload]
    model.chat.completions.create(messages=messages, stream=True).choices  # type: ignore[attr-defined]
    model.chat.completions.create(messages=messages).choices[0].message.text  # type: ignore[attr-defined]
    model.completions.create(prompt=5)  # type: ignore[call-overload]
