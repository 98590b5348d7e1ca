"""The package as pip installs it, its README, and its module as a program."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kinglet

ROOT = Path(__file__).resolve().parent.parent.parent.parent
INSTALLED = "site-packages" in Path(kinglet.__file__).parts


def python(*arguments, **options):
    environment = {name: value for name, value in os.environ.items() if not (INSTALLED and name.startswith("KINGLET"))}
    if not INSTALLED:
        environment["PYTHONPATH"] = str(Path(kinglet.__file__).parent.parent)
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, **options)


def test_the_readme_s_programs_run(tmp_path):
    text = Path(__file__).parent.parent.joinpath("README.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(programs) >= 4
    # One after another, in a folder with the demo model.
    (tmp_path / "models").symlink_to(ROOT / "models")
    program = "\n".join(programs) + "\nprint('the end')"
    done = python("-W", "error", "-c", program, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.endswith("the end\n") and re.search(r"\n\d+ tokens\n", done.stdout), done.stdout


def test_the_module_chats():
    done = python("-m", "kinglet", str(ROOT / "models/demo/hybrid"), input="Hello!\nMore!\n")
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("> ") == 3, done
    assert python("-m", "kinglet").returncode == 2
    refused = python("-m", "kinglet", "/no such folder")
    assert refused.returncode == 1 and "/no such folder" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.skipif(not INSTALLED, reason="the package is not installed")
def test_the_library_is_in_the_package(tmp_path):
    folder = Path(kinglet.__file__).parent
    assert [file.name for file in folder.glob("*kinglet.*")] == ["libkinglet.so"]
    assert not (folder / "tests").exists() and not (folder.parent / "tests").exists()
    program = "import kinglet, importlib.metadata as m; print(kinglet.__version__ == m.version('kinglet'), kinglet.__file__)"
    done = python("-I", "-W", "error", "-c", program, cwd=tmp_path)
    assert done.stdout.split() == ["True", str(folder / "__init__.py")], done


def test_there_is_no_source_distribution(tmp_path):
    pytest.importorskip("hatchling")
    folder = Path(__file__).parent.parent
    done = python("-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path), cwd=folder)
    assert done.returncode != 0 and "there is no source distribution" in done.stderr
