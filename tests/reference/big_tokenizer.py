"""A usable tokenizer for a model that was never trained: byte-level BPE without merges.

Every byte is a token, so any text can be encoded; the rest of the vocabulary is filled with made-up words, so that
every token that a random model generates can be decoded.
"""

import json

END, START_ROLE, END_ROLE, PAD = 256, 257, 258, 259
SPECIAL = {END: "<|end_of_text|>", START_ROLE: "<|start_of_role|>", END_ROLE: "<|end_of_role|>", PAD: "<|pad|>"}

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{ '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"
)


def byte_characters():
    """Maps each byte to the printable character that represents it in a byte-level vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable}
    table.update({b: chr(256 + i) for i, b in enumerate(others)})
    return [table[b] for b in range(256)]


def _word(number):
    """Returns a unique made-up word for each number: a space and syllables."""
    consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
    space = chr(256 + 32)  # the byte-level character of the space
    out = ""
    number += 1
    while number:
        number, digit = divmod(number, len(consonants) * len(vowels))
        out = consonants[digit // len(vowels)] + vowels[digit % len(vowels)] + out
    return space + out


def write_tokenizer(folder, vocab_size):
    """Writes tokenizer.json and tokenizer_config.json with `vocab_size` entries."""
    vocab = {character: byte for byte, character in enumerate(byte_characters())}
    first = max(SPECIAL) + 1
    # The special tokens are in the vocabulary, too: otherwise the loader assigns their ids.
    vocab.update({text: token for token, text in SPECIAL.items()})
    vocab.update({_word(n): first + n for n in range(vocab_size - first)})
    assert len(vocab) == vocab_size, "two tokens are alike"
    added = [
        {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for i, text in SPECIAL.items()
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocab, "merges": [],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "clean_up_tokenization_spaces": False,
        "bos_token": SPECIAL[END], "eos_token": SPECIAL[END], "pad_token": SPECIAL[PAD], "unk_token": None,
        "model_max_length": 32768, "chat_template": CHAT_TEMPLATE,
        "added_tokens_decoder": {
            str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
