"""What the package promises, with the model in the folder $KINGLET_TEST_MODEL and nothing but Python: python -m unittest tests.test_kinglet"""

import asyncio
import copy
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import weakref

import kinglet

FOLDER = os.environ["KINGLET_TEST_MODEL"]
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

    def test_with_closes(self):
        with kinglet.Model(FOLDER) as model, model.session() as session:
            self.assertEqual(session.position, 0)
            with session.chat(CHAT, max_tokens=3) as answer:
                next(answer)
        for closed in (lambda: model.session(), lambda: session.position, lambda: answer.finish_reason):
            with self.assertRaises(kinglet.KingletError):
                closed()
        model.close()
        self.assertRegex(kinglet.__version__, r"^\d+\.\d+\.\d+")

    def test_a_model_that_nobody_holds_is_freed_at_once(self):
        gc.disable()
        try:
            model = kinglet.Model(FOLDER)
            model.chat.completions.create(messages=CHAT, max_tokens=2)
            gone = weakref.ref(model)
            del model
            self.assertIsNone(gone())
        finally:
            gc.enable()

    def test_none_is_not_given(self):
        session = self.model.session()
        plain = "".join(session.chat(CHAT, seed=3, max_tokens=8))
        none = dict.fromkeys(["temperature", "top_k", "min_p", "stop", "tools", "variables", "logit_bias", "ignore_eos"])
        self.assertEqual(plain, "".join(session.chat(CHAT, seed=3, max_tokens=8, **none)))
        greedy = "".join(session.chat(CHAT, max_tokens=8, temperature=0))
        self.assertEqual(greedy, "".join(session.chat(CHAT, max_tokens=8, top_k=1)))

    def test_what_is_no_value_is_refused_before_the_library_sees_it(self):
        session = self.model.session()
        for wrong in ({"max_tokens": 0}, {"max_tokens": -1}, {"temperature": -1}, {"stop": ""}, {"stop": "a\0b"}):
            with self.assertRaises(ValueError, msg=str(wrong)):
                session.chat(CHAT, **wrong)
        for wrong in ({"max_tokens": "5"}, {"temperature": "hot"}, {"stop": [1]}, {"seed": 1.5}, {"max_tokens": True}):
            with self.assertRaises(TypeError, msg=str(wrong)):
                session.chat(CHAT, **wrong)
        for wrong in ("Hello", CHAT[0], None, [1]):
            with self.assertRaises((TypeError, kinglet.KingletError), msg=str(wrong)):
                session.chat(wrong)
        with self.assertRaises(ValueError):
            kinglet.Model("a\0b")

    def test_objects_are_dicts_with_attributes(self):
        completion = self.model.chat.completions.create(messages=CHAT, max_tokens=4)
        self.assertEqual(completion.choices[0].message.content, completion["choices"][0]["message"]["content"])
        self.assertIsNone(completion.choices[0].message.tool_calls)
        self.assertFalse(hasattr(completion, "nothing"))
        self.assertEqual(json.loads(completion.model_dump_json()), completion)
        self.assertEqual(type(completion.to_dict()["choices"][0]), dict)
        self.assertNotIn("refusal", completion.model_dump(exclude_none=True)["choices"][0]["message"])
        for made in (copy.deepcopy(completion), pickle.loads(pickle.dumps(completion))):
            self.assertEqual(made.choices[0].finish_reason, "length")
        error = pickle.loads(pickle.dumps(kinglet.Cancelled(-6, "words")))
        self.assertEqual((type(error), error.status, str(error)), (kinglet.Cancelled, -6, "words"))

    def test_later_requests_go_on_from_earlier_ones(self):
        model = kinglet.Model(FOLDER)
        first = model.chat.completions.create(messages=CHAT, max_tokens=20, seed=1)
        self.assertEqual(first.usage.prompt_tokens_details.cached_tokens, 0)
        turns = [*CHAT, first.choices[0].message, {"role": "user", "content": "More!"}]
        second = model.chat.completions.create(messages=turns, max_tokens=2)
        self.assertGreater(second.usage.prompt_tokens_details.cached_tokens, first.usage.prompt_tokens)
        # Refused, stopped and cancelled answers in between neither lose anything nor change later answers.
        with self.assertRaises(ValueError):
            model.chat.completions.create(messages=CHAT, temperature=-1)
        stream = model.chat.completions.create(messages=CHAT, stream=True, seed=1)
        for _ in range(3):
            next(stream)
        stream.close()
        stream.close()
        self.assertEqual(list(stream), [])
        third = model.chat.completions.create(messages=turns, max_tokens=2)
        self.assertGreater(third.usage.prompt_tokens_details.cached_tokens, first.usage.prompt_tokens)
        again = model.chat.completions.create(messages=CHAT, max_tokens=20, seed=1)
        self.assertEqual(again.choices, first.choices)

    def test_threads_have_requests_of_their_own(self):
        alone = self.model.chat.completions.create(messages=CHAT, max_tokens=10, seed=5).choices
        results = []

        def ask():
            results.append(self.model.chat.completions.create(messages=CHAT, max_tokens=10, seed=5).choices)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(results, [alone] * 4)

    def test_a_request_that_takes_too_long_times_out(self):
        with self.assertRaises(TimeoutError):
            self.model.chat.completions.create(
                messages=CHAT, max_tokens=10**6, extra_body={"ignore_eos": True}, timeout=0.1
            )
        self.model.chat.completions.create(messages=CHAT, max_tokens=2, timeout=60)

    @unittest.skipIf(sys.platform == "win32", "signals are sent otherwise there")
    def test_ctrl_c_ends_a_long_prompt(self):
        program = """
import signal, sys, kinglet
# A shell that starts it in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
model = kinglet.Model(sys.argv[1])
session = model.session()
session.feed([1, 2, 3])
long = [{"role": "user", "content": "once upon a time there was a cat " * 20000}]
try:
    print("begun", flush=True)
    for text in session.chat(long, max_tokens=1):
        pass
except KeyboardInterrupt:
    print("interrupted", "".join(session.chat([{"role": "user", "content": "Hi"}], max_tokens=2)) != "")
"""
        command = [sys.executable, "-W", "error", "-c", program, FOLDER]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            self.assertEqual(child.stdout.readline(), "begun\n")
            time.sleep(0.5)
            begun = time.monotonic()
            child.send_signal(signal.SIGINT)
            self.assertEqual(child.stdout.read(), "interrupted True\n")
        self.assertLess(time.monotonic() - begun, 10)

    def test_memory_is_estimated(self):
        small, large = kinglet.estimate(FOLDER, 100), kinglet.estimate(FOLDER, 10000)
        self.assertEqual(small["weights"], large["weights"])
        self.assertLess(small["state"], large["state"])



class Async(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = kinglet.AsyncModel(FOLDER)

    async def test_pieces_are_those_of_the_loop_without_asyncio(self):
        expected = list(self.model.session().chat(CHAT, seed=7, max_tokens=10))
        pieces = [text async for text in self.model.session().chat(CHAT, seed=7, max_tokens=10)]
        self.assertEqual(pieces, expected)
        request = {"messages": CHAT, "seed": 7, "max_tokens": 10}
        whole = await self.model.chat.completions.create(**request)
        self.assertEqual(whole.choices[0].message.content, "".join(expected))
        stream = await self.model.chat.completions.create(**request, stream=True)
        self.assertEqual("".join([chunk.choices[0].delta.content or "" async for chunk in stream]), "".join(expected))
        # A stream of the model without asyncio also works with it.
        stream = self.model.model.chat.completions.create(**request, stream=True)
        self.assertEqual("".join([chunk.choices[0].delta.content or "" async for chunk in stream]), "".join(expected))
        text = await self.model.completions.create(prompt="Once upon a time", seed=1)
        stream = await self.model.completions.create(prompt="Once upon a time", seed=1, stream=True)
        self.assertEqual("".join([piece.choices[0].text async for piece in stream]), text.choices[0].text)

    async def test_the_loop_goes_on_while_something_is_computed(self):
        ticks, done = 0, asyncio.Event()

        async def tick():
            nonlocal ticks
            while not done.is_set():
                ticks += 1
                await asyncio.sleep(0.001)

        ticker = asyncio.create_task(tick())
        # A prompt that takes a while, in one call of the library.
        long = [{"role": "user", "content": "once upon a time there was a cat " * 400}]
        await asyncio.sleep(0)
        before = ticks
        await self.model.chat.completions.create(messages=long, max_tokens=1)
        during = ticks - before
        done.set()
        await ticker
        self.assertGreater(during, 10)

    async def test_requests_at_once_get_the_answers_that_they_get_alone(self):
        request = {"messages": CHAT, "seed": 9, "max_tokens": 12}
        alone = await self.model.chat.completions.create(**request)
        many = await asyncio.gather(*[self.model.chat.completions.create(**request) for _ in range(3)])
        self.assertEqual([one.choices for one in many], [alone.choices] * 3)

    async def test_a_task_that_is_cancelled_ends_what_is_computed(self):
        endless = {"messages": CHAT, "max_tokens": 10**6, "extra_body": {"ignore_eos": True}}
        begun = time.monotonic()
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(self.model.chat.completions.create(**endless), 0.2)

        async def read():
            async for _ in await self.model.chat.completions.create(**endless, stream=True):
                pass

        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(read(), 0.2)
        session = self.model.session()
        generation = session.chat(CHAT, max_tokens=10**6, ignore_eos=True)

        async def read_generation():
            async for _ in generation:
                pass

        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(read_generation(), 0.2)
        self.assertLess(time.monotonic() - begun, 20)
        # Nothing remains that would cancel or change what comes next.
        after = await self.model.chat.completions.create(messages=CHAT, max_tokens=5, seed=1)
        expected = self.model.session().chat(CHAT, max_tokens=5, seed=1)
        self.assertEqual(after.choices[0].message.content, "".join(expected))
        self.assertEqual("".join(session.chat(CHAT, max_tokens=5, seed=1)), after.choices[0].message.content)

    async def test_a_stream_that_is_left_early_is_ended(self):
        stream = await self.model.chat.completions.create(messages=CHAT, max_tokens=50, stream=True)
        async with stream:
            async for _ in stream:
                break
        self.assertEqual([chunk async for chunk in stream], [])
        with self.assertRaises(ValueError):
            await self.model.chat.completions.create(messages=CHAT, temperature=-1)
        async with await kinglet.AsyncModel.open(FOLDER) as model:
            self.assertGreater(model.model.vocabulary, 0)
        with self.assertRaises(kinglet.KingletError):
            await kinglet.AsyncModel.open("/no such folder")


if __name__ == "__main__":
    unittest.main()
