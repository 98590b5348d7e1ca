"""``python -m kinglet MODEL``: a chat on the terminal."""

from __future__ import annotations

import sys
from typing import Dict, List

from . import Model


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m kinglet MODEL_FOLDER", file=sys.stderr)
        return 2
    session = Model(sys.argv[1]).session()
    messages: List[Dict[str, str]] = []
    while True:
        try:
            messages.append({"role": "user", "content": input("> ")})
        except (EOFError, KeyboardInterrupt):
            return 0
        answer = ""
        for text in session.chat(messages):
            print(text, end="", flush=True)
            answer += text
        print()
        messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    sys.exit(main())
