"""NumPy arrays as input and output, and the package without NumPy."""

import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

import kinglet


def test_logits_are_an_array(model):
    session = model.session()
    with pytest.raises(kinglet.KingletError, match="feed it a token first"):
        session.logits()
    session.feed(numpy.array(model.encode("Once upon a"), dtype=numpy.int64))
    logits = session.logits()
    assert logits.shape == (model.vocabulary,) and logits.dtype == numpy.float32
    token = int(logits.argmax())
    generation = session.fork().generate(max_tokens=1, temperature=0)
    assert "".join(generation) == model.decode([token]) and generation.tokens == [token]
    # A separate array, which does not change with the session.
    kept = logits.copy()
    session.feed([token])
    assert (logits == kept).all() and (session.logits() != kept).any()


def test_embeddings_are_taken_as_an_array(model):
    tokens = model.encode("Once upon a time")
    vectors = numpy.array(model.embed(tokens), dtype=numpy.float64).reshape(len(tokens), -1)
    flat, rows = model.session(), model.session()
    flat.feed_embeddings(model.embed(tokens))
    rows.feed_embeddings(vectors)
    assert (flat.logits() == rows.logits()).all()


def test_nothing_but_logits_needs_numpy(model):
    program = """
import sys
sys.modules["numpy"] = None
import kinglet
model = kinglet.Model(sys.argv[1])
made = model.chat.completions.create(
    messages=[{"role": "user", "content": "Hello"}], max_tokens=3, temperature=0, logprobs=True, top_logprobs=2
)
print(made.choices[0].logprobs.model_dump_json())
session = model.session()
session.feed([1])
try:
    session.logits()
except ImportError as error:
    assert "NumPy" in str(error)
else:
    raise SystemExit("logits without NumPy")
"""
    command = [sys.executable, "-W", "error", "-c", program, model.path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(kinglet.__file__).parent.parent)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    without = json.loads(done.stdout)["content"]
    made = model.chat.completions.create(
        messages=[{"role": "user", "content": "Hello"}], max_tokens=3, temperature=0, logprobs=True, top_logprobs=2
    )
    for one, other in zip(without, made.choices[0].logprobs.content):
        assert one["token"] == other.token and abs(one["logprob"] - other.logprob) < 1e-5
        assert [top["token"] for top in one["top_logprobs"]] == [top.token for top in other.top_logprobs]
