"""What the tests share."""

import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent.parent
os.environ.setdefault("KINGLET_TEST_MODEL", str(ROOT / "models" / "demo" / "hybrid"))

# Vulkan's loader complains on standard error where there is no session of a desktop.
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())

import kinglet  # noqa: E402


@pytest.fixture(scope="session")
def model():
    with kinglet.Model(os.environ["KINGLET_TEST_MODEL"]) as model:
        yield model
