"""Run Stable-Baselines3's own tests with every ``learn`` of an off-policy agent made model-based.

The tests come out of the source archive of the installed release, from the package registry, or from a checkout. Of
its files those are run that mention an off-policy agent. All tests but those of learning get a tiny model: they are
about everything else, and have to pass under any model.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import stable_baselines3

OFF_POLICY = re.compile(r"\b(SAC|TD3|DDPG|DQN|HerReplayBuffer)\b")


def download(folder: Path) -> Path:
    """Unpack the source archive of the installed release in a folder; returns where."""
    release = f"stable-baselines3=={stable_baselines3.__version__}"
    options = [
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        "stable-baselines3",
        "--dest",
        str(folder),
    ]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, release], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, help="folder of stable-baselines3 with its tests; default: download")
    parser.add_argument("--files", nargs="+", help="of the tests, such as test_her.py; default: see above")
    arguments, for_pytest = parser.parse_known_args()  # what is left goes to pytest
    with tempfile.TemporaryDirectory() as temporary:
        source = arguments.checkout or download(Path(temporary))
        if not (source / "tests").is_dir():
            parser.error(f"{source} holds no tests: give a checkout of stable-baselines3 (make sb3-suite SB3=folder)")
        # Without the package that lies there beside them: the installed one is tested.
        suite = Path(temporary) / "suite"
        shutil.copytree(source / "tests", suite / "tests")
        shutil.copy(source / "pyproject.toml", suite)
        files = [
            path.name for path in sorted((suite / "tests").glob("test_*.py")) if OFF_POLICY.search(path.read_text())
        ]
        names = [f"tests/{name}" for name in arguments.files or files]
        options = ["-p", "sb3_suite_plugin", "-p", "no:cacheprovider", "--rootdir", str(suite), "-q", "-rf"]
        options += ["--continue-on-collection-errors"]  # of files that need what is not installed, such as pandas
        command = [sys.executable, "-m", "pytest", *options, *for_pytest, *names]
        env = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        return subprocess.run(command, cwd=suite, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
