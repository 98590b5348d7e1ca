"""python test_chat.py MODEL_FOLDER OTHER_MODEL [SCREENSHOT]: tests the window as a user sees it, on the display $DISPLAY.

Keys and clicks are Tk events; answers come from a real model through libkinglet."""

import subprocess
import sys
import time
import unittest

import chat

FOLDER, OTHER, *SCREENSHOT = sys.argv[1:]


class TheWindow(unittest.TestCase):
    def setUp(self):
        self.window = chat.Window()
        self.window.update()

    def tearDown(self):
        self.window.destroy()

    def until(self, holds, what):
        """Runs the window's event loop until `holds` returns true. The time limit only matters if something is broken."""
        end = time.monotonic() + 120
        while not holds():
            self.assertLess(time.monotonic(), end, f"{what}: {self.shown()!r} {self.window.status['text']!r}")
            self.window.update()
            time.sleep(0.005)

    def shown(self):
        return self.window.text.get("1.0", "end")

    def click(self, button):
        self.window.update()
        x, y = button.winfo_width() // 2, button.winfo_height() // 2
        for event in ["<Enter>", "<ButtonPress-1>", "<ButtonRelease-1>"]:
            button.event_generate(event, x=x, y=y)
        self.window.update()

    def type(self, field, text):
        field.focus_force()
        self.window.update()
        for character in text:
            keysym = {" ": "space", ".": "period", "\n": "Return", "/": "slash"}.get(character, character)
            field.event_generate("<Key>", keysym=keysym)
        self.window.update()

    def open(self, folder):
        self.window.folder.delete(0, "end")
        self.window.folder.insert(0, folder)
        self.click(self.window.open_button)
        self.until(lambda: self.window.ready, "the model is open")

    def test_answers_stream_in_and_the_next_turn_reuses_the_first(self):
        self.open(FOLDER)
        self.assertIn("granitemoehybrid", self.window.status["text"])
        self.type(self.window.entry, "Tell me a story about a dog.\n")
        lengths = set()

        def ended():
            lengths.add(len(self.shown()))
            return not self.window.answering

        self.until(ended, "an answer")
        self.assertGreater(len(lengths), 5, "the answer came all at once")
        self.assertIn("Tell me a story about a dog.", self.shown())
        self.assertIn(self.window.messages[1]["content"], self.shown())
        self.type(self.window.entry, "And a cat.\n")
        self.until(lambda: not self.window.answering, "a second answer")
        self.assertRegex(self.window.status["text"], r"tokens/s, [1-9][0-9]* tokens reused")
        if SCREENSHOT:
            subprocess.run(["import", "-window", "root", *SCREENSHOT], check=True)
        # Another model starts another conversation.
        self.open(OTHER)
        self.assertIn("xlstm", self.window.status["text"])
        self.assertEqual(self.window.messages, [])

    def test_stop_ends_an_answer_and_the_next_question_is_answered(self):
        self.open(FOLDER)
        self.type(self.window.entry, "Tell me a story.\n")
        self.until(lambda: self.window.messages[-1]["content"], "the first text")
        self.assertTrue(self.window.answering)
        self.click(self.window.stop_button)
        self.until(lambda: not self.window.answering, "the end")
        self.assertEqual(self.window.status["text"], "stopped")
        self.type(self.window.entry, "Say hello.\n")
        self.until(lambda: not self.window.answering, "the next answer")
        self.assertIn("tokens/s", self.window.status["text"])

    def test_errors_are_shown_and_the_window_stays_usable(self):
        self.window.folder.insert(0, "/no/such/model")
        self.click(self.window.open_button)
        self.until(lambda: "/no/such/model" in self.shown(), "the error")
        self.assertIn("error", self.window.text.tag_names("1.0"))
        self.assertTrue(self.window.send_button.instate(["disabled"]))
        self.open(FOLDER)
        self.assertTrue(self.window.send_button.instate(["!disabled"]))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
