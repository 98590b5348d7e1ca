"""``python -m kinglet MODEL``: a chat on the terminal."""

from __future__ import annotations

import sys
from typing import Dict, List

from . import KingletError, Model


def main() -> int:
    """Chats until the input ends. Ctrl-C ends an answer, or, at the prompt, the chat."""
    if len(sys.argv) != 2:
        print("usage: python -m kinglet MODEL_FOLDER", file=sys.stderr)
        return 2
    try:
        model = Model(sys.argv[1])
    except KingletError as error:
        print(error, file=sys.stderr)
        return 1
    session = model.session()
    messages: List[Dict[str, str]] = []
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        messages.append({"role": "user", "content": line})
        answer = ""
        try:
            with session.chat(messages) as generation:
                for text in generation:
                    print(text, end="", flush=True)
                    answer += text
        except KeyboardInterrupt:
            pass
        except KingletError as error:
            print(error, file=sys.stderr)
            messages.pop()
            continue
        print()
        messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    sys.exit(main())
