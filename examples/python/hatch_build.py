"""Builds libkinglet with cargo and bundles it into the wheel, so that `pip install` gives a package that works.

Rust must be there (https://rustup.rs), and the repository around this folder. What can be set in the environment:

KINGLET_BUILD_ARGS   more arguments for cargo, as "--profile dist" or "--no-default-features" (without graphics cards)
KINGLET_LIBRARY      a library that is built already, which is bundled instead
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Dict

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAMES = {"darwin": "libkinglet.dylib", "win32": "kinglet.dll"}


class LibraryHook(BuildHookInterface):  # type: ignore[type-arg]
    """What hatchling calls before it packs."""

    def initialize(self, version: str, build_data: Dict[str, Any]) -> None:
        if self.target_name == "sdist":
            raise RuntimeError(
                "there is no source distribution of kinglet: its sources are the repository's. Build a wheel there: "
                "pip wheel --no-deps ./examples/python, or python -m build --wheel ./examples/python"
            )
        library = built()
        name = NAMES.get(sys.platform, "libkinglet.so")
        if version == "editable":
            # The package is imported from here; git ignores the file.
            shutil.copyfile(library, Path(self.root, "kinglet", name))
        else:
            build_data["force_include"][str(library)] = f"kinglet/{name}"
        # Any Python 3 loads it, on this system and processor only.
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform()}"


def built() -> Path:
    """The path of the library."""
    given = os.environ.get("KINGLET_LIBRARY")
    if given:
        return Path(given).resolve(strict=True)
    root = Path(__file__).resolve().parent.parent.parent
    manifest = root / "Cargo.toml"
    if not (root / "ffi" / "Cargo.toml").is_file():
        raise RuntimeError(
            f"the sources of libkinglet are not in {root}: install from a clone of the repository, "
            "or set KINGLET_LIBRARY to a library that is built already"
        )
    cargo = os.environ.get("CARGO", "cargo")
    if shutil.which(cargo) is None:
        raise RuntimeError("cargo is not on the path: Rust is needed to build libkinglet (https://rustup.rs)")
    more = shlex.split(os.environ.get("KINGLET_BUILD_ARGS", ""))
    if not any(argument == "--release" or argument.startswith("--profile") for argument in more):
        more.append("--release")
    command = [cargo, "build", "--locked", "--manifest-path", str(manifest)]
    # Another selection may have the library built already, with the features that dependencies have there.
    if not any(argument in ("-p", "--workspace") or argument.startswith("--package") for argument in more):
        command += ["--package", "kinglet-ffi"]
    # Cargo itself says where it has put the library: its target folder can be configured in several places.
    command += ["--message-format", "json-render-diagnostics", *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"libkinglet can't be built: {shlex.join(command)} failed; what it said is above")
    for line in done.stdout.decode().splitlines():
        message = json.loads(line)
        if message.get("reason") != "compiler-artifact" or message["target"]["name"] != "kinglet":
            continue
        if "cdylib" in message["target"]["kind"]:
            for file in message["filenames"]:
                if file.endswith((".so", ".dylib", ".dll")):
                    return Path(file)
    raise RuntimeError("cargo built no shared library")


def platform() -> str:
    """The part of the wheel's tag that names system and processor."""
    if sys.platform == "darwin":
        from packaging.tags import platform_tags

        return next(iter(platform_tags()))
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
