"""python test_kinglet.py MODEL_FOLDER: what the package promises, with a real model."""

import sys
import tempfile
import threading
import unittest

import kinglet

FOLDER = sys.argv.pop(1)
CHAT = [{"role": "user", "content": "Tell me a story about a \u732b and a dog."}]


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = kinglet.Model(FOLDER)

    def test_a_seed_repeats_an_answer_and_the_second_turn_reuses_the_first(self):
        session = self.model.session()
        first = session.chat(CHAT, seed=7, max_tokens=20, temperature=0.8)
        answer = "".join(first)
        self.assertEqual(answer, "".join(self.model.session().chat(CHAT, seed=7, max_tokens=20, temperature=0.8)))
        self.assertEqual(len(first.tokens), first.stats["generated_tokens"])
        turns = CHAT + [{"role": "assistant", "content": answer}, {"role": "user", "content": "More!"}]
        second = session.chat(turns, max_tokens=5)
        "".join(second)
        self.assertGreater(second.stats["reused_tokens"], first.stats["prompt_tokens"] / 2)

    def test_completions_have_the_form_of_openai(self):
        whole = self.model.create_chat_completion(CHAT, seed=1, max_tokens=12)
        chunks = list(self.model.create_chat_completion(CHAT, seed=1, max_tokens=12, stream=True))
        streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        self.assertEqual(whole["choices"][0]["message"]["content"], streamed)
        self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"])

    def test_text_and_tokens_round_trip(self):
        tokens = self.model.encode("a small cat")
        self.assertEqual(self.model.decode(tokens), "a small cat")

    def test_saved_sessions_go_on(self):
        session = self.model.session()
        session.feed(self.model.encode("Once upon a time"))
        with tempfile.NamedTemporaryFile() as file:
            session.save(file.name)
            loaded = self.model.load(file.name)
        self.assertEqual(loaded.position, session.position)
        texts = ["".join(s.generate(max_tokens=8, temperature=0)) for s in (session, loaded)]
        self.assertEqual(*texts)

    def test_vectors_take_the_place_of_tokens(self):
        tokens = self.model.encode("Once upon a time")
        by_token, by_vector = self.model.session(), self.model.session()
        by_token.feed(tokens)
        vectors = self.model.embed(tokens)
        by_vector.feed_embeddings(vectors)
        self.assertEqual(by_vector.position, len(tokens))
        texts = ["".join(s.generate(max_tokens=8, temperature=0)) for s in (by_token, by_vector)]
        self.assertEqual(*texts)
        with self.assertRaises(kinglet.KingletError):
            by_vector.feed_embeddings(vectors[:-1])

    def test_another_thread_cancels(self):
        session = self.model.session()
        tokens = self.model.encode("once upon a time there was a cat ") * 4000
        timer = threading.Timer(0.1, session.cancel)
        timer.start()
        with self.assertRaises(kinglet.Cancelled):
            while True:
                session.feed(tokens)
        timer.join()
        session.feed(tokens[:3])

    def test_a_late_cancellation_is_taken_away(self):
        session = self.model.session()
        session.cancel()
        with self.assertRaises(kinglet.Cancelled):
            session.feed([1, 2, 3])
        session.cancel()
        session.clear_cancel()
        session.feed([1, 2, 3])
        self.assertEqual(session.position, 3)

    def test_errors_have_a_status_and_words(self):
        with self.assertRaises(kinglet.KingletError) as caught:
            kinglet.Model("/no such folder")
        self.assertEqual(caught.exception.status, -7)
        self.assertIn("no such folder", str(caught.exception))
        with self.assertRaises(TypeError):
            self.model.session().chat(CHAT, heat=1)
        closed = self.model.session()
        closed.close()
        with self.assertRaises(kinglet.KingletError):
            closed.position

    def test_memory_is_estimated(self):
        small, large = kinglet.estimate(FOLDER, 100), kinglet.estimate(FOLDER, 10000)
        self.assertEqual(small["weights"], large["weights"])
        self.assertLess(small["state"], large["state"])


unittest.main()
