"""What a user gets who installs the package: every folder, under names that collide with nobody's."""

from __future__ import annotations

import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mbrl_wrappers

CHECKOUT = Path(__file__).parents[1]
FOLDERS = {"mbrl_wrappers": "mbrl_wrappers", "agents": "mbrl_wrappers.agents", "zoo": "mbrl_wrappers.zoo"}
MAX_WHEEL_BYTES = 15 * 2**20
BUILD_INPUTS = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "conftest.py")


def run_python(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Python in a folder; `path` is searched before what is installed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def folder_files(pattern: str) -> dict[str, Path]:
    """Path inside the wheel, and file, of all that matches `pattern` in the three folders."""
    return {
        f"{package.replace('.', '/')}/{path.relative_to(CHECKOUT / folder).as_posix()}": path
        for folder, package in FOLDERS.items()
        for path in (CHECKOUT / folder).rglob(pattern)
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: the checkout's own build folder may hold files that exist no more."""
    source = tmp_path_factory.mktemp("source")
    for name in (*FOLDERS, "tests"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILD_INPUTS:
        shutil.copy(CHECKOUT / name, source)
    output = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(output))
    done = run_python(source, "-m", "pip", "wheel", *options, ".")
    assert done.returncode == 0, done.stderr
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed beside another project's top-level `agents` and `zoo`.

    `openai-agents` is the best known package that installs an `agents`; these stand in for it, offline.
    """
    folder = tmp_path_factory.mktemp("site")
    done = run_python(folder, "-m", "pip", "install", "--no-deps", "--no-index", "--target", ".", str(wheel))
    assert done.returncode == 0, done.stderr
    for name in ("agents", "zoo"):
        assert not (folder / name).exists()
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("OWNER = 'somebody else'\n", encoding="utf-8")
    return folder


def test_setup_cfg_lists_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    listed = config["options"]["packages"].split()
    on_disk = {Path(name).parent.as_posix().replace("/", ".") for name in folder_files("__init__.py")}
    assert len(listed) == len(set(listed))
    assert set(listed) == on_disk


def test_no_module_lies_outside_a_package() -> None:
    files = folder_files("*.py")
    loose = [name for name, path in files.items() if not (path.parent / "__init__.py").exists()]
    assert loose == [], "these folders need an __init__.py, or the wheel leaves them out"


def test_versions_agree(wheel: Path) -> None:
    citation = (CHECKOUT / "CITATION.cff").read_text(encoding="utf-8")
    assert wheel.name.split("-")[1] == mbrl_wrappers.__version__
    assert re.search(r"^version: (\S+)$", citation, re.MULTILINE)[1] == mbrl_wrappers.__version__


def test_the_wheel_contains_all_that_belongs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        contents = {name for name in archive.namelist() if ".dist-info/" not in name}
    data = ("recipes/*.yml", "pretrained/*.json", "pretrained/*/*/*", "report/templates/*")
    packaged = {
        f"mbrl_wrappers/zoo/{path.relative_to(CHECKOUT / 'zoo').as_posix()}"
        for pattern in data
        for path in (CHECKOUT / "zoo").glob(pattern)
    }
    assert contents == {"mbrl_wrappers/py.typed", *folder_files("*.py"), *packaged}
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES, "larger agents belong into zoo/pretrained_large"


def test_the_wheel_installs_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        entry_points = configparser.ConfigParser()
        entry_points.read_string(archive.read(name).decode())
    assert dict(entry_points["console_scripts"]) == {"mbrl-zoo": "mbrl_wrappers.zoo.__main__:main"}


@pytest.mark.parametrize("name", ["agents", "zoo"])
def test_the_installed_wheel_lives_beside_a_namesake(site: Path, tmp_path: Path, name: str) -> None:
    program = (
        f"import mbrl_wrappers.{name} as ours, {name} as theirs\n"
        "print(ours.__file__, theirs.__file__, theirs.OWNER, sep='\\n')"
    )
    done = run_python(tmp_path, "-c", program, path=site)
    assert done.returncode == 0, done.stderr
    ours, theirs, owner = done.stdout.splitlines()
    assert Path(ours) == site / "mbrl_wrappers" / name / "__init__.py"
    assert Path(theirs) == site / name / "__init__.py"
    assert owner == "somebody else"


def test_every_public_name_works_in_the_installed_wheel(site: Path, tmp_path: Path) -> None:
    program = (
        "import mbrl_wrappers\n"
        "for name in mbrl_wrappers.__all__:\n"
        "    print(name, getattr(mbrl_wrappers, name).__name__)\n"
        "print(mbrl_wrappers.__file__)"
    )
    done = run_python(tmp_path, "-c", program, path=site)
    assert done.returncode == 0, done.stderr
    *names, origin = done.stdout.splitlines()
    assert names == [f"{name} {name}" for name in mbrl_wrappers.__all__]
    assert Path(origin) == site / "mbrl_wrappers" / "__init__.py"


def test_the_installed_wheel_finds_its_agents(site: Path, tmp_path: Path) -> None:
    program = (
        "from mbrl_wrappers import zoo\n"
        "from mbrl_wrappers.zoo.catalogue.lookup import open_agent\n"
        "print(open_agent('mbpo/Pendulum-v1').path, zoo.load('mbpo/Pendulum-v1').num_timesteps, sep='\\n')"
    )
    done = run_python(tmp_path, "-c", program, path=site)
    assert done.returncode == 0, done.stderr
    folder, steps = done.stdout.splitlines()
    assert Path(folder) == site / "mbrl_wrappers" / "zoo" / "pretrained" / "mbpo" / "Pendulum-v1"
    assert steps == "2500"


@pytest.mark.parametrize("name", ["agents", "zoo"])
def test_a_wrong_import_name_is_refused(name: str) -> None:
    done = run_python(CHECKOUT, "-c", f"import {name}")
    assert done.returncode == 1
    assert f"ImportError: This folder is the package 'mbrl_wrappers.{name}'" in done.stderr
    assert f"imported as {name!r}" in done.stderr
    assert f"Write `import mbrl_wrappers.{name}`" in done.stderr


@pytest.mark.parametrize("package", ["mbrl_wrappers", "mbrl_wrappers.agents", "mbrl_wrappers.zoo"])
def test_lazy_names_are_listed_and_kept(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is getattr(module, name)
        assert name in vars(module)


@pytest.mark.parametrize("package", ["mbrl_wrappers", "mbrl_wrappers.agents", "mbrl_wrappers.zoo"])
def test_an_unknown_name_is_an_attribute_error(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=rf"'{package}' has no attribute 'Dino'"):
        module.Dino  # noqa: B018
