"""Streams: pieces as they are generated, for loops of Python and of asyncio."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Generator,
    Generic,
    Iterator,
    Optional,
    Protocol,
    Type,
    TypeVar,
    Union,
)

from ._library import KingletError

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._session import Generation

T = TypeVar("T")
_END: Any = object()


class Control(Protocol):
    """Something that computes and can be stopped: a session, or answers that use one."""

    def cancel(self) -> None:
        """Stops the computation, from any thread."""

    def clear_cancel(self) -> None:
        """Clears a cancellation that came too late."""


class Stream(Iterator[T]):
    """Pieces as they are generated. Iterate with ``for`` or ``async for``; :meth:`close`, or the end of a ``with``, stops the
    generation."""

    def __init__(self, items: "Generator[T, None, None]", control: Control) -> None:
        self._items = items
        self._control = control

    def __iter__(self) -> "Stream[T]":
        return self

    def __next__(self) -> T:
        return next(self._items)

    def close(self) -> None:
        """Stops the generation: now, or, if another thread is in it, there, with :class:`Cancelled`. May be called repeatedly."""
        try:
            self._items.close()
        except ValueError:
            self._control.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def __aiter__(self) -> "AsyncStream[T]":
        """The same for asyncio."""
        return AsyncStream(self._items, self._control)


class Worker:
    """A thread that computes one stream, so that the event loop of asyncio is not blocked."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kinglet")

    async def run(self, work: Callable[[], T], cancel: Callable[[], None]) -> T:
        """The result of `work`. If the task is cancelled, `cancel` is called, and `work` has ended when this raises."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                cancel()
                try:
                    # Again: a cancellation from before the work began may have been cleared by the end of another one.
                    await asyncio.wait([future], timeout=0.05)
                except asyncio.CancelledError:
                    continue
            # Its result is dropped.
            if not future.cancelled():
                future.exception()
            raise

    def close(self) -> None:
        """Lets the thread end when it has no more work."""
        self._executor.shutdown(wait=False)


class AsyncStream(AsyncIterator[T], Generic[T]):
    """Pieces as they are generated, for asyncio. Each is computed on request, on a separate thread. Cancelling a task stops the
    computation within a step; :meth:`close`, or the end of an ``async with``, ends the answer."""

    def __init__(self, items: "Union[Generation, Generator[T, None, None]]", control: Control) -> None:
        self._items: Any = items
        self._control = control
        self._worker: Optional[Worker] = Worker()

    def __aiter__(self) -> "AsyncStream[T]":
        return self

    async def __anext__(self) -> T:
        if self._worker is None:
            raise StopAsyncIteration
        try:
            item = await self._worker.run(lambda: next(self._items, _END), self._control.cancel)
        except BaseException:
            await self._end()
            raise
        if item is _END:
            await self._end()
            raise StopAsyncIteration
        result: T = item
        return result

    async def close(self) -> None:
        """Stops the generation. May be called repeatedly."""
        await self._end()

    aclose = close

    async def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        try:
            await worker.run(lambda: end(self._items, self._control), self._control.cancel)
        finally:
            worker.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        worker = getattr(self, "_worker", None)
        if worker is not None:
            worker.close()


def end(items: "Union[Generation, Generator[Any, None, None]]", control: Control) -> None:
    """Ends an answer, or a stream of several, so that its session can continue."""
    try:
        # A cancellation that came too late.
        control.clear_cancel()
        if isinstance(items, Generator):
            items.close()
        else:
            items.stop()
    except KingletError:
        # The session was closed or has failed, so there is nothing to end.
        pass
