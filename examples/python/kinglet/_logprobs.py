"""The probabilities of an answer's tokens."""

from __future__ import annotations

import ctypes
import heapq
import math
from ctypes import c_float
from typing import TYPE_CHECKING, Any, List, Tuple

from ._library import call
from .types import TokenLogprob, TopLogprob

if TYPE_CHECKING:
    from ._model import Model
    from ._session import Session


def token_logprob(session: "Session", token: int, top: int) -> TokenLogprob:
    """A token chosen from the session's logits, and the `top` most probable ones."""
    model = session._model
    chosen, best = _logprobs(session, model.vocabulary, token, top)
    alternatives = [TopLogprob(_described(model, other, logprob)) for other, logprob in best]
    return TokenLogprob(_described(model, token, chosen), top_logprobs=alternatives)


def _logprobs(session: "Session", vocabulary: int, token: int, top: int) -> Tuple[float, List[Tuple[int, float]]]:
    try:
        import numpy as np
    except ImportError:
        buffer = (c_float * vocabulary)()
        call("session_logits", session.handle, buffer, vocabulary)
        logits = list(buffer)
        largest = max(logits)
        total = largest + math.log(math.fsum(math.exp(logit - largest) for logit in logits))
        best = heapq.nlargest(top, range(vocabulary), key=logits.__getitem__)
        return logits[token] - total, [(other, logits[other] - total) for other in best]
    array = np.empty(vocabulary, dtype=np.float32)
    call("session_logits", session.handle, array.ctypes.data_as(ctypes.POINTER(c_float)), vocabulary)
    values = array.astype(np.float64)
    values -= values.max()
    values -= math.log(float(np.exp(values).sum()))
    order: Any = np.argpartition(values, -top)[-top:] if top else []
    ranked = sorted((int(other) for other in order), key=lambda other: -values[other])
    return float(values[token]), [(other, float(values[other])) for other in ranked]


# The smallest number in OpenAI's interface; JSON has no infinity.
_LEAST = -9999.0


def _described(model: "Model", token: int, logprob: float) -> "dict[str, Any]":
    text = _text_of(model, token)
    # A partial character has no text of its own.
    data = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": max(logprob, _LEAST), "bytes": data}


def _text_of(model: "Model", token: int) -> str:
    """The text of a token within a text: some tokenizers omit the blank before the first word."""
    once = model.decode([token], skip_special=False)
    twice = model.decode([token, token], skip_special=False)
    return twice[len(once):] if twice.startswith(once) else once
