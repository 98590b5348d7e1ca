"""Kinglet, an inference engine for recurrent and hybrid language models.

    import kinglet

    with kinglet.Model("path/to/model") as model:
        for text in model.session().chat([{"role": "user", "content": "Hello"}]):
            print(text, end="", flush=True)

or in the form of OpenAI's client:

    completion = model.chat.completions.create(messages=[{"role": "user", "content": "Hello"}])
    print(completion.choices[0].message.content)
"""

from ._library import Cancelled, InvalidArgument, KingletError, library_version
from ._model import AsyncModel, Model, estimate
from ._session import Generation, Session
from ._streams import AsyncStream, Stream

__version__: str = library_version()

__all__ = [
    "AsyncModel",
    "AsyncStream",
    "Cancelled",
    "Generation",
    "InvalidArgument",
    "KingletError",
    "Model",
    "Session",
    "Stream",
    "__version__",
    "estimate",
]
