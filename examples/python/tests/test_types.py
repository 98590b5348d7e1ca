"""The package's types as mypy sees them, from outside and inside."""

import os
import subprocess
import sys
from pathlib import Path

import kinglet

PACKAGE = Path(kinglet.__file__).parent


def mypy(*arguments):
    environment = dict(os.environ)
    if "site-packages" not in PACKAGE.parts:
        environment["MYPYPATH"] = str(PACKAGE.parent)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", os.devnull, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_programs_have_the_types_that_they_expect():
    # Expected errors are marked in that file; unused marks are errors themselves.
    mypy(str(Path(__file__).with_name("typed.py")))
    assert (PACKAGE / "py.typed").is_file()


def test_the_package_itself_is_strict():
    mypy("--package", "kinglet")
