"""The answers to one request, one after another, and the session that computes them."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Callable, Generator, List, NamedTuple, Optional, Sequence

from ._library import Cancelled, KingletError
from ._logprobs import token_logprob
from ._session import FINISH, STOP_TOKEN, Generation, Session
from .types import CompletionUsage, FinishReason, PromptTokensDetails, TokenLogprob

if TYPE_CHECKING:
    from ._model import Model

Job = Callable[["Answers"], Generation]


class Piece(NamedTuple):
    """What a piece adds to answer number `answer`; `finish` is set in its last piece."""

    answer: int
    text: str
    logprobs: List[TokenLogprob]
    finish: Optional[FinishReason]


class Answers:
    """The answers of `jobs`. `top` is the number of alternatives per token; None: no probabilities."""

    def __init__(self, model: "Model", jobs: Sequence[Job], top: Optional[int], timeout: Optional[float]) -> None:
        self._model = model
        self._jobs = jobs
        self.top = top
        self._lock = threading.Lock()
        self.session = model._borrow()
        self._working: Optional[Session] = self.session
        self._first: Optional[Generation] = None
        self._expired = False
        self._timer: Optional[threading.Timer] = None
        if timeout is not None:
            self._timer = threading.Timer(min(timeout, threading.TIMEOUT_MAX), self._expire)
            self._timer.daemon = True
            self._timer.start()
        self.prompt_tokens = 0
        self._cached_tokens = 0
        self._completion_tokens = 0

    def start(self) -> None:
        """Starts the first answer, which reports errors in the request."""
        try:
            self._first = self._jobs[0](self)
        except BaseException:
            self._release()
            raise

    def work_on(self, session: Session) -> Session:
        """Makes `session` the target of a cancellation."""
        with self._lock:
            self._working = session
        return session

    def cancel(self) -> None:
        """Stops the computation, from any thread; has no effect once the session is back with its model."""
        with self._lock:
            if self._working is not None:
                self._working.cancel()

    def clear_cancel(self) -> None:
        """Clears a cancellation that came too late."""
        with self._lock:
            if self._working is not None:
                self._working.clear_cancel()

    def _expire(self) -> None:
        self._expired = True
        self.cancel()

    def pieces(self) -> Generator[Piece, None, None]:
        """All pieces of all answers."""
        try:
            for index, job in enumerate(self._jobs):
                first, self._first = self._first, None
                generation = first if index == 0 and first is not None else job(self)
                yield from self._pieces_of(generation, index)
        except Cancelled as error:
            if self._expired:
                raise TimeoutError("the answers took longer than the request's timeout") from error
            raise
        finally:
            self._release()

    def _pieces_of(self, generation: Generation, index: int) -> Generator[Piece, None, None]:
        with generation:
            self.work_on(generation._session)
            try:
                while True:
                    piece = generation._pull()
                    if piece is None:
                        break
                    logprobs = []
                    # The stop token is not part of the answer.
                    if self.top is not None and generation._finish != STOP_TOKEN:
                        logprobs.append(token_logprob(generation._session, piece.token, self.top))
                    if piece.text or logprobs:
                        yield Piece(index, piece.text, logprobs, None)
            except GeneratorExit:
                # The session then holds what was returned, so that later prompts continue from there.
                with contextlib.suppress(KingletError):
                    generation.stop()
                raise
            stats = generation.stats
            self.prompt_tokens = self.prompt_tokens or int(stats["prompt_tokens"])
            if index == 0:
                self._cached_tokens = int(stats["reused_tokens"])
            self._completion_tokens += int(stats["generated_tokens"])
            reason = generation._finish
            length = reason < len(FINISH) and FINISH[reason] == "length"
            yield Piece(index, "", [], "length" if length else "stop")

    def _release(self) -> None:
        """Returns the session to the model."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            if self._working is None:
                return
            self._working = None
        self._model._give_back(self.session)

    def usage(self) -> CompletionUsage:
        """Number of tokens so far."""
        prompt, answers = self.prompt_tokens, self._completion_tokens
        return CompletionUsage(
            prompt_tokens=prompt,
            completion_tokens=answers,
            total_tokens=prompt + answers,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=self._cached_tokens),
        )
