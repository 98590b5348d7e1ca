"""The tokenizer (byte-level BPE, 8,192 tokens), the chat template, and their files in a model folder."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 8192
END_OF_TEXT, SYSTEM, USER, ASSISTANT, END_OF_TURN = SPECIAL = [
    "<|endoftext|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
]

# A turn is its role's token, the text, and <|end|>, with nothing between turns or before the first one.
CHAT_TEMPLATE = """{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('unknown role: ' + message['role']) -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


def chat_text(messages: list[dict]) -> str:
    """A dialogue as the chat template renders it."""
    return "".join(f"<|{m['role']}|>{m['content']}{END_OF_TURN}" for m in messages)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Trains the BPE merges. Digits are always single tokens; words are split by GPT-2's rule."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the corpus resulted in a vocabulary of {tokenizer.get_vocab_size()}, not {VOCABULARY}")
    return tokenizer


def write_files(folder: Path, tokenizer: Tokenizer, context: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TURN,
        "model_max_length": context,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
        "added_tokens_decoder": {
            str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
            for i, t in enumerate(SPECIAL)
        },
    }
    generation = {
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 40,
        "top_p": 0.9,
        "max_new_tokens": 400,
        "eos_token_id": [SPECIAL.index(END_OF_TURN), SPECIAL.index(END_OF_TEXT)],
        "pad_token_id": SPECIAL.index(END_OF_TEXT),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
