"""What README, docs and docstrings tell people to run: every Python snippet on its own, every command.

Snippets run with smaller numbers, each in an empty folder. A snippet that begins with the name of a file is written to
that file for those after it on its page. Commands are parsed, and trainings built, by the code that would run them.
"""

from __future__ import annotations

import ast
import configparser
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
import tyro
from nbclient import NotebookClient
from playwright.sync_api import sync_playwright

from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.zoo.catalogue.lookup import places
from mbrl_wrappers.zoo.cli.commands import COMMANDS, Doctor, Train, Tune
from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.registry import AGENTS
from mbrl_wrappers.zoo.sweeps import tuning
from testing.commands import parser_of_commands

CHECKOUT = Path(__file__).parents[1]
BUILDER = runpy.run_path(str(CHECKOUT / "docs" / "builder" / "pages.py"))  # makes the pages of agents
PAGES = [
    CHECKOUT / "README.md",
    CHECKOUT / "CONTRIBUTING.md",
    *sorted(file for file in (CHECKOUT / "docs").rglob("*.md") if "results" not in file.parts),
]
WITH_COMMANDS = [
    *PAGES,
    *sorted((CHECKOUT / "docs" / "results").glob("*.md")),
    *sorted((CHECKOUT / "examples").glob("*.py")),
    *sorted(file for folder in ("agents", "mbrl_wrappers", "zoo") for file in (CHECKOUT / folder).rglob("*.py")),
]
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
# Pattern: what is run in its place. Sizes, budgets and schedules; never what a snippet does.
SMALLER = {
    r"\.learn\([\d_]+": ".learn(60",
    r"(collect_transitions\(\w+, \w+, )[\d_]+": r"\g<1>300",
    r"range\(3_000\)": "range(300)",
    r"hidden=\(64, 64\)": "hidden=(16,)",
    r"max_steps=[\d_]+": "max_steps=5",
    r"learning_starts=[\d_]+": "learning_starts=30",
    r"gradient_steps=\d+": "gradient_steps=1",
    r"rollouts_per_step=\d+": "rollouts_per_step=2",
    r"fit_every=\d+": "fit_every=20",
    r"num_envs=(32|64)": "num_envs=2",
    r"n_steps=64, batch_size=256": "n_steps=32, batch_size=64",
    r"n_steps=1_000, batch_size=250": "n_steps=50, batch_size=50",
    r'zoo\.save\(agent, "my_agent"\)': 'zoo.save(agent, "my_agent", episodes=1)',
    r"n_eval_episodes=\d+": "n_eval_episodes=1",
    r"n_trials=\d+": "n_trials=1",
    r"population=\d+": "population=20",
    r'"population": \d+': '"population": 20',
    r'"horizon": \d+': '"horizon": 3',
    r"steps=1_500": "steps=60",
}


@dataclass(frozen=True)
class Snippet:
    """A Python block of a page: where it stands, its code, and the files that the page has before it."""

    page: str
    line: int
    code: str
    files: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets() -> list[Snippet]:
    """Return every Python block of README and docs."""
    found = []
    for page in PAGES:
        files: dict[str, str] = {}
        text = page.read_text(encoding="utf-8")
        for block in (block for block in BLOCK.finditer(text) if block["language"] == "python"):
            code, line = block["code"], text.count("\n", 0, block.start()) + 1
            found.append(Snippet(page.relative_to(CHECKOUT).as_posix(), line, code, dict(files)))
            if name := re.match(r"# (\w+\.py)\n", code):
                files[name[1]] = code
    return found


def smaller(code: str) -> str:
    """Return a snippet that takes less time."""
    for pattern, replacement in SMALLER.items():
        code = re.sub(pattern, replacement, code)
    return code


# The snippets that show the most; the others run with the slow tests.
QUICK = ("README.md", "docs/quick_start.md", "docs/concepts/model_is_an_environment.md", "docs/guides/goals.md")
PARAMETERS = [
    pytest.param(snippet, id=str(snippet), marks=[] if snippet.page in QUICK else pytest.mark.slow)
    for snippet in snippets()
]


@pytest.mark.parametrize("snippet", PARAMETERS)
def test_a_snippet_runs_on_its_own(snippet, tmp_path, monkeypatch):
    for module in top_level_imports(snippet.code) - {Path(name).stem for name in snippet.files}:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    for name, code in snippet.files.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(EnsembleDynamics.__init__.__kwdefaults__, "max_steps", 5)
    monkeypatch.setitem(EnsembleDynamics.__init__.__kwdefaults__, "hidden", (16,))
    # A program of its own name: what starts processes, such as zoo.train, stands under the usual guard.
    exec(compile(smaller(snippet.code), str(snippet), "exec"), {"__name__": "snippet"})
    for name in snippet.files:
        sys.modules.pop(Path(name).stem, None)


def top_level_imports(code: str) -> set[str]:
    """Return the packages that a program imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def test_the_documents_have_snippets_and_every_replacement_is_in_use():
    found = snippets()
    assert len(found) > 20
    code = "".join(snippet.code for snippet in found)
    assert [pattern for pattern in SMALLER if not re.search(pattern, code)] == []


# -- commands -------------------------------------------------------------------------------------------------------


INLINE = re.compile(r"(?<!`)`((?:mbrl-zoo|make|python [\w/]+\.py|pip) ?[^`]*)`(?!`)")
IN_DOCSTRINGS = re.compile(r"``(mbrl-zoo [^`]+)``|^ {4,}(mbrl-zoo \w[^\n]*|python [\w/]+\.py[^\n]*)$", re.MULTILINE)


def commands() -> list[str]:
    """Return every command that README, docs and docstrings name."""
    found: set[str] = set()
    for file in WITH_COMMANDS:
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
        if file.suffix == ".md":
            blocks = [block["code"] for block in BLOCK.finditer(text) if block["language"] in ("", "sh")]
            found |= {line for block in blocks for line in block.splitlines()} | set(INLINE.findall(text))
        else:
            found |= {quoted or line for quoted, line in IN_DOCSTRINGS.findall(text)}
    found |= {BUILDER["command_of"](name) for name in AGENTS}
    found = {" ".join(command.partition("  #")[0].split()) for command in found}
    return sorted(command for command in found if command and command[0] != "#")


def test_the_documents_name_commands():
    assert len(commands()) > 60


def check_mbrl_zoo(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command; run a training and a study up to the first process, and look an env over in few steps."""
    if not words or words == ["COMMAND", "--help"]:
        return
    if words[0].startswith("--"):
        check_completion(words)
        return
    name, *arguments = words
    assert name in COMMANDS
    if not arguments:
        return  # the command is only named
    try:
        parsed: Any = tyro.cli(COMMANDS[name], args=arguments)
    except SystemExit as ended:
        assert ended.code == 0, "does not parse"
        return
    if isinstance(parsed, Doctor):
        assert replace(parsed, steps=200, model=False).run() == 0
    if isinstance(parsed, Train) and parsed.resume is None:
        spec = parser_of_commands(monkeypatch)(shlex.join(["mbrl-zoo", *words]))
        assert (spec.agent, spec.env) == (parsed.agent, parsed.env)
    named = [getattr(parsed, "name", None) or "", *getattr(parsed, "names", ())]
    assert {one for one in named if "/" in one} <= {place.name for place in places()}
    if isinstance(parsed, Tune):
        monkeypatch.setattr(tuning, "_open_study", not_from_here_on)
        with pytest.raises(NotFromHereOnError):
            main(words)


class NotFromHereOnError(Exception):
    """What has been tried is all but the work."""


def not_from_here_on(*_: object) -> None:
    raise NotFromHereOnError


def check_completion(words: list[str]) -> None:
    """Write the shell's file."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    if words[0] == "--tyro-write-completion":
        assert "mbrl-zoo" in Path(words[-1]).read_text(encoding="utf-8")


def check_make(words: list[str]) -> None:
    """Find the target."""
    targets = re.findall(r"^([\w-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert words[0] in targets


def check_python(words: list[str]) -> None:
    """Find the script and, of those that take them, the subcommand."""
    file = CHECKOUT / words[0]
    assert file.is_file()
    ast.parse(file.read_text(encoding="utf-8"))


def check_pip(words: list[str]) -> None:
    """Look the extras up that are asked for."""
    assert words[0] in ("install", "wheel")
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    for extras in re.findall(r"mbrl[-_]wrappers\[([\w,-]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(config["options.extras_require"])


def check_activation(words: list[str]) -> None:
    """Only what `make` creates is activated."""
    assert words == [".venv/bin/activate"]


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": check_make,
    "python": check_python,
    "pip": check_pip,
    ".": check_activation,
}


@pytest.fixture
def in_a_users_folder(tmp_path, monkeypatch):
    """A folder with the env of the quick start; examples are found too, as from the checkout."""
    (snippet,) = (snippet for snippet in snippets() if snippet.code.startswith("# hover.py"))
    (tmp_path / "hover.py").write_text(snippet.code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(CHECKOUT))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("hover", None)


@pytest.mark.usefixtures("in_a_users_folder")
@pytest.mark.parametrize("command", commands())
def test_a_documented_command_can_be_run(command, monkeypatch):
    program, *words = shlex.split(command)
    if program == "mbrl-zoo":
        check_mbrl_zoo(words, monkeypatch)
        return
    assert program in CHECKS, f"tests/test_docs.py knows no way to try {command!r}"
    CHECKS[program](words)


@pytest.mark.usefixtures("brief_diagnosis", "in_a_users_folder")
def test_the_quick_start_trains_an_env_of_ones_own(capsys):
    """The command, from the folder of the env, with smaller numbers."""
    doctor, command = sorted((command for command in commands() if "hover:Hover" in command), key=len)
    assert main([*shlex.split(doctor)[1:], "-n", "200", "--no-model"]) == 0, capsys.readouterr().err
    for old, new in {
        "-n 1000": "-n 40 --eval-episodes 1 --no-progress",
        "learning_starts=200": "learning_starts=20",
        "gradient_steps=5": "gradient_steps=1",
        "max_steps=500": "max_steps=2",
    }.items():
        assert old in command
        command = command.replace(old, new)
    assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert "MBPO(SAC)" in capsys.readouterr().out
    (report,) = re.findall(r"mbrl-zoo report (\S+)", (CHECKOUT / "docs" / "quick_start.md").read_text(encoding="utf-8"))
    assert Path(report).is_dir()


# -- notebooks ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "notebook", sorted((CHECKOUT / "docs" / "notebooks").glob("*.ipynb")), ids=lambda file: file.stem
)
def test_a_notebook_runs_from_beginning_to_end(notebook, monkeypatch):
    monkeypatch.delenv("MPLBACKEND")  # a notebook's own, which draws into the page
    book = nbformat.read(notebook, as_version=4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    printed = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(output.output_type == "display_data" for output in printed)  # it draws


# -- the site -------------------------------------------------------------------------------------------------------


def test_the_overview_of_results_has_every_page():
    results = CHECKOUT / "docs" / "results"
    linked = set(re.findall(r"\]\(([\w.]+\.md)\)", (results / "overview.md").read_text(encoding="utf-8")))
    assert linked == {file.name for file in results.glob("*.md")} - {"overview.md"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `make docs` builds it: a broken link fails."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_a_page_for_every_agent(site):
    assert {file.stem for file in (site / "agents").glob("*.html")} == {"index", *AGENTS}


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_every_page_fits_the_screen_and_loads_nothing_from_elsewhere(site, width, scheme):
    """In a browser, from the folder, as a reader without a network opens it."""
    broken: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("request", lambda request: broken.append(request.url) if request.url.startswith("http") else None)
        missing = "net::ERR_FILE_NOT_FOUND"  # what was aborted is of a page that is left already
        page.on("requestfailed", lambda request: broken.extend([request.url] * (request.failure == missing)))
        page.on("pageerror", lambda error: broken.append(f"{page.url}: {error}"))
        for file in sorted(site.rglob("*.html")):
            if file.name == "404.html":  # a server's, with addresses of its root
                continue
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, file
            cut = (
                "[...document.querySelectorAll('.md-typeset__scrollwrap')].some(e => e.scrollWidth > e.clientWidth + 1)"
            )
            assert width < 1280 or file.parent.name != "agents" or not page.evaluate(cut), file
            assert page.evaluate("[...document.images].every(image => !image.complete || image.naturalWidth > 0)"), file
        page.goto((site / "index.html").as_uri())
        page.locator("#__search").evaluate("toggle => toggle.click()")
        page.locator(".md-search__input").press_sequentially("rollout length")
        page.locator(".md-search-result__item").first.wait_for()
        browser.close()
    assert broken == []
