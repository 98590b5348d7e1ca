"""Shared fixtures of the tests."""

import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent.parent
os.environ.setdefault("KINGLET_TEST_MODEL", str(ROOT / "models" / "demo" / "hybrid"))

# Vulkan's loader complains on standard error without a desktop session.
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())

import kinglet  # noqa: E402


@pytest.fixture(scope="session")
def model():
    with kinglet.Model(os.environ["KINGLET_TEST_MODEL"]) as model:
        yield model
