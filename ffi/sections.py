"""Sorts the declarations of kinglet.h into sections: reads cbindgen's output from standard input, writes to standard output.

cbindgen writes all types, then all functions. This puts related declarations together, the most needed first. A name without a
section is an error.
"""

import fnmatch
import re
import sys

# Title, introduction, and names in order; `*` matches any characters. The first match counts.
SECTIONS = [
    ("Errors", "", ["kinglet_status", "kinglet_last_error", "kinglet_last_error_copy"]),
    ("Versions", "", ["KINGLET_ABI_VERSION", "kinglet_check_abi", "kinglet_abi_version", "kinglet_version"]),
    (
        "Objects",
        "Types of handles. A chat needs a model, a session and a generation.",
        [f"struct {name}" for name in [
            "kinglet_model", "kinglet_session", "kinglet_generation", "kinglet_generation_options",
            "kinglet_model_options", "kinglet_tokenizer", "kinglet_decoder", "kinglet_snapshot", "kinglet_files", "*",
        ]],
    ),
    ("Memory", "", ["kinglet_free"]),
    ("Models", "", ["kinglet_model_open", "kinglet_model_delete", "kinglet_model_description", "kinglet_model_vocabulary"]),
    (
        "Sessions",
        "",
        ["kinglet_session_create", "kinglet_session_delete", "kinglet_session_reset", "kinglet_session_position",
         "kinglet_session_cancel", "kinglet_session_clear_cancel"],
    ),
    (
        "Answers",
        "Create a generation with a prompt, then run it: token by token, or at once with a callback.",
        ["kinglet_generation_create_chat", "kinglet_generation_create_text", "kinglet_generation_create",
         "kinglet_generation_next", "kinglet_token_callback", "kinglet_generation_run", "kinglet_generation_stop",
         "kinglet_generation_delete", "kinglet_generation_text", "kinglet_finish", "kinglet_generation_finish",
         "kinglet_stat", "kinglet_generation_stat", "kinglet_model_render"],
    ),
    (
        "Options for generating an answer",
        "",
        ["kinglet_generation_options_create", "kinglet_generation_options_delete", "kinglet_sampling",
         "kinglet_generation_options_set", "kinglet_generation_options_*"],
    ),
    (
        "Text and tokens",
        "",
        ["kinglet_model_tokenizer", "kinglet_tokenizer_open", "kinglet_tokenizer_delete", "kinglet_encode_flags",
         "kinglet_tokenizer_*", "kinglet_decoder_*"],
    ),
    (
        "Token by token, without a generation",
        "",
        ["kinglet_session_feed", "kinglet_session_feed_text", "kinglet_session_logits", "kinglet_session_tokens",
         "kinglet_step", "kinglet_model_embedding_width", "kinglet_model_embed", "kinglet_session_feed_embeddings"],
    ),
    (
        "Copies, rewinding, files",
        "",
        ["kinglet_session_fork", "kinglet_session_rewind", "kinglet_session_mark", "kinglet_snapshot_*",
         "kinglet_session_restore", "kinglet_session_save*", "kinglet_session_load*", "kinglet_session_memory"],
    ),
    (
        "Options for opening a model",
        "",
        ["kinglet_model_options_create", "kinglet_model_options_delete", "kinglet_progress_callback",
         "kinglet_model_options_*"],
    ),
    ("Devices and memory", "", ["kinglet_devices_*", "kinglet_estimate", "kinglet_model_expert_use"]),
    (
        "Models that are not in a folder",
        "",
        ["kinglet_files_create", "kinglet_files_*", "kinglet_model_open_files", "kinglet_estimate_files"],
    ),
    ("The log", "", ["kinglet_log_*"]),
]

NAMES = [
    r"#define (KINGLET_\w+) \S",
    r"(struct kinglet_\w+) kinglet_\w+;",
    r"typedef [^;]*\(\*(kinglet_\w+)\)",
    r"enum (kinglet_\w+)",
    r"\b(kinglet_\w+)\(",
]


def name_of(block):
    """The name that a block declares, or None for guards and includes."""
    declaration = re.sub(r"/\*.*?\*/", "", block, flags=re.DOTALL)
    for pattern in NAMES:
        found = re.search(pattern, declaration)
        if found:
            return found.group(1)
    return None


def place_of(name):
    """The section of a name, and its place there."""
    for section, (_, _, patterns) in enumerate(SECTIONS):
        for place, pattern in enumerate(patterns):
            if fnmatch.fnmatchcase(name, pattern):
                return section, place
    sys.exit(f"sections.py: {name} is in no section of kinglet.h: add it to one")


def title(section):
    name, text, _ = SECTIONS[section]
    lines = [f"/* ==== {name} ===="] + ([f" * {text}"] if text else [])
    return "\n".join(lines) + ("\n */" if text else " */")


def main():
    blocks = [block for block in re.split(r"\n\n+", sys.stdin.read().strip("\n")) if block]
    before, declared, after = [], [], []
    for block in blocks:
        name = name_of(block)
        if name is not None:
            declared.append((place_of(name), block))
        elif block.startswith("#ifdef __cplusplus\nextern"):
            opening = block
        else:
            (after if declared else before).append(block)
    # A stable sort: declarations that match one pattern keep the order of the sources.
    declared.sort(key=lambda entry: entry[0])
    parts, last = before + [opening], None
    for (section, _), block in declared:
        if section != last:
            parts.append(title(section))
            last = section
        parts.append(block)
    print("\n\n".join(parts + after))


main()
