"""The pages of the site that are made of the code: agents, examples, commands and modules; a hook of MkDocs.

What is in a registry, a folder or a docstring is never written again by hand: a new agent, example, guide or page of
results appears by itself.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import mbrl_wrappers
from mbrl_wrappers import agents
from mbrl_wrappers.zoo.catalogue.lookup import places, try_to_open
from mbrl_wrappers.zoo.cli.commands import COMMANDS
from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.evaluation import mean_and_std
from mbrl_wrappers.zoo.registry import AGENTS, ALGORITHMS, AgentRecord, agent_table
from mbrl_wrappers.zoo.storage.folder import AgentFolder
from mbrl_wrappers.zoo.terminal import size_text
from mbrl_wrappers.zoo.training.recipe import Recipe, load_recipe

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
# Module: the name of its page.
MODULES = {
    "mbrl_wrappers": "The most used names",
    "mbrl_wrappers.agents": "Agents and strategies",
    "mbrl_wrappers.agents.networks": "Policies and activations",
    "mbrl_wrappers.imagination": "The callback",
    "mbrl_wrappers.models": "Models",
    "mbrl_wrappers.models.members": "What only some models can do",
    "mbrl_wrappers.models.uncertainty": "Measures of uncertainty",
    "mbrl_wrappers.envs": "Models as envs",
    "mbrl_wrappers.envs.games": "Board games",
    "mbrl_wrappers.wrappers": "Wrappers",
    "mbrl_wrappers.planners": "Planners",
    "mbrl_wrappers.planners.tree": "Tree search",
    "mbrl_wrappers.tasks": "Tasks",
    "mbrl_wrappers.spaces": "Spaces",
    "mbrl_wrappers.experience": "Experience",
    "mbrl_wrappers.types": "Records",
    "mbrl_wrappers.seeding": "Random streams",
    "mbrl_wrappers.zoo": "The zoo",
}
# Files of the checkout outside of docs/ that the site shows: their pages.
SHOWN = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


# -- MkDocs calls these ---------------------------------------------------------------------------------------------


def on_startup(*, command: str, dirty: bool) -> None:
    """Lay out the sources for mkdocstrings, which looks for their folder when it is configured."""
    link_packages(CHECKOUT / "build" / "docs" / "mbrl_wrappers")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the pages that are found rather than listed."""
    for entry in config.nav or []:
        (title, pages), *_ = entry.items()
        if title == "Guides":
            pages += sorted(f"guides/{file.name}" for file in (DOCS / "guides").glob("*.md") if file.stem != "index")
            pages.append({"Notebooks": sorted(notebook_pages())})
            pages.append({"Examples": ["examples/index.md", *sorted(example_pages())]})
        elif title == "Agents":
            pages += [{name: f"agents/{name}.md"} for name in AGENTS]
        elif title == "Reference":
            (api,) = (page for page in pages if "API" in page)
            api["API"] = ["api/index.md", *({name: f"api/{module}.md"} for module, name in MODULES.items())]
        elif title == "Results":
            pages += sorted(
                f"results/{file.name}" for file in (DOCS / "results").glob("*.md") if file.stem != "overview"
            )
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the code."""
    for path, text in generated_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the checkout lead to their pages."""
    source = next((file for file, shown in SHOWN.items() if shown == page.file.src_uri), f"docs/{page.file.src_uri}")
    return with_site_links(markdown, source, page.file.src_uri)


def link_packages(folder: Path) -> None:
    """Show mkdocstrings the folders of the checkout as the one package that they are installed as."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in (*(CHECKOUT / "mbrl_wrappers").iterdir(), CHECKOUT / "agents", CHECKOUT / "zoo"):
        link = folder / source.name
        if not link.is_symlink():
            link.symlink_to(source)


# -- links ----------------------------------------------------------------------------------------------------------


def with_site_links(markdown: str, source: str, page: str) -> str:
    """Return the text of a file of the checkout with the links of a page of the site.

    Args:
        markdown: the text.
        source: the file's path in the checkout, which its links start from.
        page: the page's path in the site.
    """

    def replaced(match: re.Match[str]) -> str:
        if urlsplit(match["target"]).scheme:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["target"]))
        return posixpath.relpath(site_page(file), posixpath.dirname(page) or ".") + (match["anchor"] or "")

    return LINK.sub(replaced, markdown)


def site_page(file: str) -> str:
    """Return the page that shows a file of the checkout."""
    path = PurePosixPath(file)
    if file in SHOWN:
        return SHOWN[file]
    if file == "LICENSE":
        return "license.md"
    if path.parts[0] == "examples":
        return f"examples/{path.stem}.md" if path.suffix else "examples/index.md"
    if path.parts[:2] == ("zoo", "recipes"):
        return f"agents/{path.stem}.md" if path.suffix else "agents/index.md"
    if path.parts[:3] == ("docs", "agents", "notes"):
        return f"agents/{path.name}"
    if path.suffix == ".ipynb":
        return str(path.relative_to("docs").with_suffix(".md"))
    if path.suffix == ".csv" or (path.parts[:2] == ("docs", "results") and not path.suffix):
        return "results/overview.md"
    return str(path.relative_to("docs")) if path.parts[0] == "docs" else file


# -- pages ----------------------------------------------------------------------------------------------------------


def generated_pages() -> dict[str, str]:
    """Return the path and the text of every page that is made of the code."""
    return {
        **{page: (CHECKOUT / file).read_text(encoding="utf-8") for file, page in SHOWN.items()},
        "index.md": "---\nhide: [navigation]\n---\n" + (CHECKOUT / "README.md").read_text(encoding="utf-8"),
        "license.md": f"# Licence\n\n```text\n{(CHECKOUT / 'LICENSE').read_text(encoding='utf-8')}\n```\n",
        "agents/index.md": agents_page(),
        **{f"agents/{name}.md": agent_page(name, record) for name, record in AGENTS.items()},
        "examples/index.md": index_page("Examples", "Programs of a page each.", example_pages()),
        **example_pages(),
        **notebook_pages(),
        "command_line.md": command_page(),
        "api/index.md": api_index(),
        **{f"api/{module}.md": api_page(module, name) for module, name in MODULES.items()},
    }


def index_page(title: str, text: str, pages: dict[str, str]) -> str:
    """Return a page that links to others of its folder."""
    lines = [f"# {title}", "", text, ""]
    lines += [f"- [{heading(page)}]({PurePosixPath(path).name})" for path, page in pages.items()]
    return "\n".join([*lines, ""])


def heading(markdown: str) -> str:
    """Return the first heading of a page."""
    return next(line[2:] for line in markdown.splitlines() if line.startswith("# "))


# -- agents ---------------------------------------------------------------------------------------------------------


def agents_page() -> str:
    """Return the page with the table of all agents, and of those that ship."""
    return "\n".join(
        [
            "# Agents",
            "",
            "Every agent that `mbrl-zoo train` knows by name. [Which agent, when, how long](../choosing.md) helps to",
            "choose. Each page has the idea, the recipe, the arguments, and what was measured.",
            "",
            re.sub(r"^\| `(\w+)`", r"| [`\1`](\1.md)", agent_table(), flags=re.MULTILINE),
            "",
            "## Trained agents that come with the library",
            "",
            "`mbrl-zoo enjoy NAME` plays one, `mbrl-zoo verify NAME` plays its recorded episodes again. The agent that",
            "is included is the median of those that were trained: all seeds' last returns are in the table.",
            "",
            *trained_table(""),
            "",
        ]
    )


def agent_page(name: str, record: AgentRecord) -> str:
    """Return the page of an agent: its notes, how to run it, its results, its recipe, its class."""
    recipe = load_recipe(name, "")
    sections = [
        f"# {name}",
        f"{record.title[:1].upper()}{record.title[1:]}. *{record.paper}.*",
        notes(name),
        f"## Run it\n\n{how_to_run(name, record)}",
    ]
    if rows := measured(name):
        sections.append(f"## Measured\n\n{rows}")
    if trained := trained_table(f"{name}/"):
        sections.append("## Trained agents that come with the library\n\n" + "\n".join(trained))
    sections += [f"## Recipe\n\n{recipe_text(name, recipe)}", class_reference(name, record)]
    return "\n\n".join(section for section in sections if section) + "\n"


def notes(name: str) -> str:
    """Return what is written about an agent by hand: idea, equation, where it pays; empty if nothing is."""
    file = DOCS / "agents" / "notes" / f"{name}.md"
    if not file.exists():
        return ""
    return with_site_links(
        file.read_text(encoding="utf-8").strip(), f"docs/agents/notes/{name}.md", f"agents/{name}.md"
    )


def how_to_run(name: str, record: AgentRecord) -> str:
    """Return the command that trains the agent on the first env of its recipe, and the class to use in Python."""
    lines = ["```", command_of(name), "```", ""]
    if record.serves_others:
        lines.append(
            f"In Python: `agent.learn(steps, callback=ModelBased({record.kind.__name__}()))` with any agent that the "
            "class below names."
        )
    else:
        lines.append(f"In Python: `mbrl_wrappers.agents.{record.kind.__name__}`, an agent like those of SB3.")
    if record.control:
        lines.append(f"Its control, which the command trains too, is `{record.control}` without a model.")
    return "\n".join(lines)


def command_of(name: str) -> str:
    """Return the command that trains the agent on the first env of its recipe."""
    return f"mbrl-zoo train {name} --env {next(iter(recipe_envs(name)), 'Pendulum-v1')}"


def recipe_envs(name: str) -> list[str]:
    """Return the envs for which the agent's recipe has settings of their own."""
    text = (CHECKOUT / "zoo" / "recipes" / f"{name}.yml").read_text(encoding="utf-8")
    keys = re.findall(r"^([\w./:-]+):", text, re.MULTILINE)
    return [key for key in keys if re.search(r"-v\d+$", key)]


def recipe_text(name: str, recipe: Recipe) -> str:
    """Return the recipe, folded away, with its default steps."""
    text = (CHECKOUT / "zoo" / "recipes" / f"{name}.yml").read_text(encoding="utf-8")
    body = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
    return (
        f"Defaults for any env: {recipe.steps:,} env steps. `--params agent.gamma=0.98` changes single values.\n\n"
        f'??? note "`zoo/recipes/{name}.yml`"\n\n    ```yaml\n{body}\n    ```'
    )


def class_reference(name: str, record: AgentRecord) -> str:
    """Return the directive that shows the agent's class, or a link where the class is that of several agents."""
    kind = record.kind.__name__
    if has_page_of_its_own(name, record):
        return f"::: mbrl_wrappers.agents.{kind}\n    options:\n      members: false\n"
    others = ", ".join(
        f"[`{other}`]({other}.md)" for other in AGENTS if other != name and AGENTS[other].kind is record.kind
    )
    shared = f"; {others} is the same class with another recipe" if others else ""
    return f"## Arguments\n\nThose of [`{kind}`][mbrl_wrappers.agents.{kind}]{shared}."


def has_page_of_its_own(name: str, record: AgentRecord) -> bool:
    """Whether an agent's page shows its class; the class of several agents is shown by that of its own name, if any."""
    return plain(record.kind.__name__) == plain(name) or [r.kind for r in AGENTS.values()].count(record.kind) == 1


def trained_table(prefix: str) -> list[str]:
    """Return the table of the trained agents that come with the library and whose names begin so; empty without."""
    found = [(place, try_to_open(place)) for place in places() if place.place == "embedded"]
    rows = [(place.name, folder) for place, folder in found if folder is not None and place.name.startswith(prefix)]
    if not rows:
        return []
    head = [
        "| name | return | last returns of the training seeds | env steps | CPU time of a run | size |",
        "|---|---|---|---|---|---|",
    ]
    return head + [f"| `{name}` | {' | '.join(trained_cells(folder))} |" for name, folder in rows]


def trained_cells(folder: AgentFolder) -> list[str]:
    """Return the cells of a trained agent: return, seeds, steps, time, size."""
    size = size_text(folder.total_bytes)
    if folder.evaluation is None:
        return ["", "", "", "", size]
    mean, std = mean_and_std(folder.evaluation.episodes)
    trained = folder.evaluation.trained_seeds
    seeds = ", ".join(f"{seed.return_mean:.0f}" for seed in sorted(trained, key=lambda seed: -seed.return_mean))
    seconds = sum(seed.cpu_seconds for seed in trained) / max(len(trained), 1)
    steps = max((seed.steps for seed in trained), default=0)
    return [f"{mean:.1f} ± {std:.1f}", seeds, f"{steps:,}", f"{seconds:.0f} s", size]


# -- what was measured ----------------------------------------------------------------------------------------------


def measured(name: str) -> str:
    """Return the rows of results/index.md for an agent, and for those without a model that it was compared with."""
    head = "| task | agent | env steps | seeds | return, mean ± std | CPU s | from |\n|---|---|---|---|---|---|---|"
    rows = []
    for task, entries in index_rows().items():
        own = [row for row in entries if plain(row[0]) == plain(name)]
        pages = {page_of(row) for row in own}
        others = [row for row in entries if row not in own and is_model_free(row[0]) and page_of(row) in pages]
        for label, steps, seeds, _, mean, _, cpu, links in own + others:
            page = links.partition(", ")[0].replace("](", "](../results/")
            rows.append(f"| {task} | {label} | {steps} | {seeds} | {mean} | {cpu} | {page} |")
    return "\n".join([head, *rows]) if rows else ""


def index_rows() -> dict[str, list[list[str]]]:
    """Return the rows of results/index.md: for each task, the cells of every agent."""
    tasks: dict[str, list[list[str]]] = {}
    task = ""
    for line in (DOCS / "results" / "index.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            task = line[3:]
        elif line.startswith("| ") and not line.startswith("| agent "):
            tasks.setdefault(task, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return tasks


def plain(label: str) -> str:
    """Return an agent's bare name: of ``SAC-SVG``, ``MBPO(SAC), noise 0.1`` and the like."""
    return re.sub(r"[^a-z0-9]", "", re.split(r"[(,]", label.lower())[0])


def page_of(row: list[str]) -> str:
    """Return the page of results that a row is from."""
    return row[-1].partition("]")[0]


def is_model_free(label: str) -> bool:
    """Whether a label is that of an SB3 agent alone."""
    return plain(label) in {plain(name) for name, kind in ALGORITHMS.items() if not kind.__module__.startswith("mbrl")}


# -- examples, notebooks, commands, modules -------------------------------------------------------------------------


def example_pages() -> dict[str, str]:
    """Return the pages of the programs in examples/."""
    pages = {}
    for file in sorted((CHECKOUT / "examples").glob("*.py")):
        source = file.read_text(encoding="utf-8")
        title = (ast.get_docstring(ast.parse(source)) or file.stem).splitlines()[0].rstrip(".")
        pages[f"examples/{file.stem}.md"] = f"# {title}\n\n`examples/{file.name}`\n\n```python\n{source}```\n"
    return pages


def notebook_pages() -> dict[str, str]:
    """Return the pages of the notebooks, with what they printed and drew when they were run last."""
    pages = {}
    for file in sorted((DOCS / "notebooks").glob("*.ipynb")):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        run_it = f"`docs/notebooks/{file.name}`"
        first, *others = (part for cell in cells for part in cell_parts(cell))
        pages[f"notebooks/{file.stem}.md"] = "\n\n".join([first, run_it, *others]) + "\n"
    return pages


def cell_parts(cell: dict[str, Any]) -> list[str]:
    """Return a cell of a notebook as Markdown: its text, or its code and what that printed and drew."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            parts.append(f"![What the cell drew](data:image/png;base64,{''.join(data['image/png']).strip()})")
        elif text := "".join(output.get("text", data.get("text/plain", ""))):
            parts.append(f"```text\n{text.rstrip()}\n```")
    return parts


def command_page() -> str:
    """Return the page of `mbrl-zoo`: the help of each command."""
    lines = [
        "# Command line",
        "",
        "What `mbrl-zoo COMMAND --help` says.",
        "",
    ]
    for name in COMMANDS:
        lines += [f"## {name}", "", "```text", help_of(name), "```", ""]
    return "\n".join(lines)


def help_of(command: str) -> str:
    """Return the help of a command, as it is shown where there is no terminal."""
    printed = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([command, "--help"])
    finally:
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def api_index() -> str:
    """Return the page that lists the modules."""
    lines = ["# API", "", "Every public name, by the module to import it from.", ""]
    lines += [f"- [`{module}`]({module}.md): {name[0].lower()}{name[1:]}" for module, name in MODULES.items()]
    return "\n".join([*lines, ""])


def api_page(module: str, name: str) -> str:
    """Return the page of a module: its docstring, and its public names."""
    if module == "mbrl_wrappers":
        return _front_page(name)
    lines = [f"# {name}", "", f"`{module}`", ""]
    options = ["show_root_heading: false", "show_root_toc_entry: false", "heading_level: 2"]
    if module == "mbrl_wrappers.agents":
        elsewhere = {
            record.kind.__name__: agent for agent, record in AGENTS.items() if has_page_of_its_own(agent, record)
        }
        links = ", ".join(f"[`{kind}`](../agents/{agent}.md)" for kind, agent in sorted(elsewhere.items()))
        lines += [f"On the pages of agents: {links}. Here are the others.", ""]
        options.append(f"members: {[public for public in agents.__all__ if public not in elsewhere]}")
    return "\n".join([*lines, f"::: {module}", "    options:", *(f"      {option}" for option in options), ""])


def _front_page(name: str) -> str:
    lines = [f"# {name}", "", "`from mbrl_wrappers import ...`", ""]
    for public in mbrl_wrappers.__all__:
        module = getattr(mbrl_wrappers, public).__module__
        home = max((known for known in MODULES if module.startswith(f"{known}.")), key=len)
        lines.append(f"- [`{public}`][{home}.{public}]")
    return "\n".join([*lines, ""])
