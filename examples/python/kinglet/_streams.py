"""Streams: what is generated piece by piece, for loops of Python and of asyncio."""

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
    """What ends a computation: a session, or what answers with one."""

    def cancel(self) -> None:
        """Ends what is computed, from any thread."""

    def clear_cancel(self) -> None:
        """Takes a cancellation away that came too late."""


class Stream(Iterator[T]):
    """Pieces as they are generated. Iterate over it with ``for`` or ``async for``; :meth:`close`, or the end of a ``with``, ends what is
    generated."""

    def __init__(self, items: "Generator[T, None, None]", control: Control) -> None:
        self._items = items
        self._control = control

    def __iter__(self) -> "Stream[T]":
        return self

    def __next__(self) -> T:
        return next(self._items)

    def close(self) -> None:
        """Ends what is generated: now, or, where another thread is in it, there, with :class:`Cancelled`. More than once is fine."""
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
    """A thread on which one stream is computed, so that the loop of asyncio goes on meanwhile."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kinglet")

    async def run(self, work: Callable[[], T], cancel: Callable[[], None]) -> T:
        """What `work` gives. If the task is cancelled, `cancel` is called, and `work` has ended when this raises."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                cancel()
                try:
                    # Again: one that came before the work had begun may have been taken away by another one's end.
                    await asyncio.wait([future], timeout=0.05)
                except asyncio.CancelledError:
                    continue
            # What came of it is nobody's.
            if not future.cancelled():
                future.exception()
            raise

    def close(self) -> None:
        """Lets the thread end when it has nothing more to do."""
        self._executor.shutdown(wait=False)


class AsyncStream(AsyncIterator[T], Generic[T]):
    """Pieces as they are generated, for asyncio. Each is computed when it is asked for, on a thread of its own. A task that is cancelled
    ends what is computed within a step; :meth:`close`, or the end of an ``async with``, ends the answer."""

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
        """Ends what is generated. More than once is fine."""
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
    """Ends an answer, or the stream of several, so that its session can go on."""
    try:
        # A cancellation that came too late for what it was meant for.
        control.clear_cancel()
        if isinstance(items, Generator):
            items.close()
        else:
            items.stop()
    except KingletError:
        # The session was closed, or has failed: there is nothing to end.
        pass
