"""Builds libkinglet with cargo and bundles it into the wheel, so that `pip install` gives a working package.

This needs Rust (https://rustup.rs) and the surrounding repository. Environment variables:

KINGLET_BUILD_ARGS   further arguments of cargo, such as "--profile dist" or "--no-default-features" (without GPU support)
KINGLET_LIBRARY      an existing library to bundle instead
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
    """The build hook that hatchling calls before packing."""

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
        # Works with any Python 3, but only on this system and architecture.
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
            "or set KINGLET_LIBRARY to an existing library"
        )
    cargo = os.environ.get("CARGO", "cargo")
    if shutil.which(cargo) is None:
        raise RuntimeError("cargo is not on the path: building libkinglet needs Rust (https://rustup.rs)")
    more = shlex.split(os.environ.get("KINGLET_BUILD_ARGS", ""))
    if not any(argument == "--release" or argument.startswith("--profile") for argument in more):
        more.append("--release")
    command = [cargo, "build", "--locked", "--manifest-path", str(manifest)]
    # A build of another selection can be reused if its dependencies have the same features.
    if not any(argument in ("-p", "--workspace") or argument.startswith("--package") for argument in more):
        command += ["--package", "kinglet-ffi"]
    # Ask cargo where the library is: its target folder can be configured in several places.
    command += ["--message-format", "json-render-diagnostics", *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"libkinglet can't be built: {shlex.join(command)} failed; see its output above")
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
    """The part of the wheel's tag for system and architecture."""
    if sys.platform == "darwin":
        from packaging.tags import platform_tags

        return next(iter(platform_tags()))
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
