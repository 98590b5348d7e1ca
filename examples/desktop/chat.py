"""A desktop chat window: python chat.py [MODEL_FOLDER]. Uses Tk and the bindings in ../python."""

from __future__ import annotations

import queue
import sys
import threading
import tkinter
from pathlib import Path
from tkinter import filedialog, ttk
from tkinter.scrolledtext import ScrolledText
from typing import Any, Dict, List, Optional, Tuple

# If the package isn't installed, its sources are used, with KINGLET_LIBRARY.
sys.path.append(str(Path(__file__).resolve().parent.parent / "python"))
import kinglet  # noqa: E402

POLL_MILLISECONDS = 20


class Engine(threading.Thread):
    """Opens models and answers on a separate thread, so that the window never waits. Reports through the queue `events`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.events: "queue.Queue[Tuple[str, Any]]" = queue.Queue()
        self._work: "queue.Queue[Optional[Tuple[str, Any]]]" = queue.Queue()
        self._session: Optional[kinglet.Session] = None
        self._stop = threading.Event()

    def open(self, folder: str) -> None:
        self._work.put(("open", folder))

    def ask(self, messages: List[Dict[str, str]]) -> None:
        self._stop.clear()
        self._work.put(("ask", [dict(message) for message in messages]))

    def stop(self) -> None:
        """Ends the answer after the current token, or the processing of a long prompt within one step."""
        self._stop.set()
        session = self._session
        if session is not None:
            session.cancel()

    def run(self) -> None:
        while True:
            what, argument = self._work.get()
            try:
                getattr(self, "_" + what)(argument)
            except kinglet.Cancelled:
                self.events.put(("end", "stopped"))
            except kinglet.KingletError as error:
                self.events.put(("error", str(error)))
            except Exception as error:  # A bug here must not silently end the thread.
                self.events.put(("error", f"{type(error).__name__}: {error}"))

    def _open(self, folder: str) -> None:
        model = kinglet.Model(folder)
        self._session = model.session()
        self.events.put(("opened", model.description))

    def _ask(self, messages: List[Dict[str, str]]) -> None:
        if self._session is None:
            self.events.put(("error", "no model is open: choose its folder first"))
            return
        # A click on Stop that came after the last answer ended is not meant for this one. One that comes right now isn't lost: the
        # loop checks, too.
        self._session.clear_cancel()
        generation = self._session.chat(messages)
        for text in generation:
            self.events.put(("text", text))
            if self._stop.is_set():
                generation.stop()
                self.events.put(("end", "stopped"))
                return
        rate = generation.stats["decode_rate"]
        self.events.put(("end", f"{rate:.1f} tokens/s, {int(generation.stats['reused_tokens'])} tokens reused"))


class Window(tkinter.Tk):
    """The window: the model's folder at the top, the conversation, and the question at the bottom."""

    def __init__(self, folder: str = "") -> None:
        super().__init__()
        self.title("Kinglet")
        self.geometry("720x480")
        self.engine = Engine()
        self.messages: List[Dict[str, str]] = []
        self.answering = False
        self.ready = False

        top = ttk.Frame(self, padding=8)
        top.pack(fill="x")
        ttk.Label(top, text="Model").pack(side="left")
        self.folder = ttk.Entry(top)
        self.folder.insert(0, folder)
        self.folder.pack(side="left", fill="x", expand=True, padx=8)
        self.folder.bind("<Return>", lambda _: self.open())
        self.choose_button = ttk.Button(top, text="Choose\u2026", command=self.choose)
        self.choose_button.pack(side="left")
        self.open_button = ttk.Button(top, text="Open", command=self.open)
        self.open_button.pack(side="left", padx=(8, 0))

        self.status = ttk.Label(self, padding=(8, 2), text="Choose a model folder.")
        self.status.pack(side="bottom", fill="x")
        bottom = ttk.Frame(self, padding=8)
        bottom.pack(side="bottom", fill="x")
        self.entry = ttk.Entry(bottom)
        self.entry.pack(side="left", fill="x", expand=True, padx=(0, 8))
        self.entry.bind("<Return>", lambda _: self.send())
        self.send_button = ttk.Button(bottom, text="Send", command=self.send)
        self.send_button.pack(side="left")
        self.stop_button = ttk.Button(bottom, text="Stop", command=self.engine.stop)
        self.stop_button.pack(side="left", padx=(8, 0))

        self.text = ScrolledText(self, wrap="word", state="disabled", padx=8, pady=8, borderwidth=0)
        self.text.pack(fill="both", expand=True)
        self.text.tag_configure("user", foreground="#1a5fb4", spacing1=8)
        self.text.tag_configure("error", foreground="#c01c28", spacing1=8)

        self.update_buttons()
        self.engine.start()
        self.polling = self.after(POLL_MILLISECONDS, self.poll)
        if folder:
            self.open()
        self.entry.focus_set()

    def choose(self) -> None:
        folder = filedialog.askdirectory(parent=self, title="Model folder")
        if folder:
            self.folder.delete(0, "end")
            self.folder.insert(0, folder)
            self.open()

    def open(self) -> None:
        if self.answering:
            return
        self.ready = False
        self.messages.clear()
        self.status["text"] = "Opening\u2026"
        self.update_buttons()
        self.engine.open(self.folder.get())

    def send(self) -> None:
        question = self.entry.get().strip()
        if not question or self.answering or not self.ready:
            return
        self.entry.delete(0, "end")
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": ""}]
        self.write(question + "\n", "user")
        self.answering = True
        self.status["text"] = "\u2026"
        self.update_buttons()
        self.engine.ask(self.messages[:-1])

    def poll(self) -> None:
        """Shows what the engine has done since the last call."""
        while True:
            try:
                what, value = self.engine.events.get_nowait()
            except queue.Empty:
                break
            if what == "text":
                self.messages[-1]["content"] += value
                self.write(value)
                continue
            if what == "opened":
                self.ready = True
            if what == "error":
                # The conversation continues as if the question had not been asked.
                if self.answering:
                    del self.messages[-2:]
                self.write(value + "\n", "error")
            elif self.answering:
                self.write("\n")
            self.answering = False
            self.status["text"] = "Something went wrong." if what == "error" else value
            self.update_buttons()
        self.polling = self.after(POLL_MILLISECONDS, self.poll)

    def destroy(self) -> None:
        self.after_cancel(self.polling)
        self.engine.stop()
        super().destroy()

    def write(self, text: str, tag: str = "") -> None:
        self.text["state"] = "normal"
        self.text.insert("end", text, tag)
        self.text["state"] = "disabled"
        self.text.see("end")

    def update_buttons(self) -> None:
        for button, use in [
            (self.send_button, self.ready and not self.answering),
            (self.stop_button, self.answering),
            (self.open_button, not self.answering),
            (self.choose_button, not self.answering),
        ]:
            button.state(["!disabled" if use else "disabled"])


if __name__ == "__main__":
    Window(sys.argv[1] if len(sys.argv) > 1 else "").mainloop()
