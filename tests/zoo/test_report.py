"""The report as readers meet it: in a real browser without a network, and on what lies in folders out there."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape
from playwright.sync_api import Browser, Page, Route, sync_playwright

from mbrl_wrappers.zoo.analysis.diagnosis import diagnose
from mbrl_wrappers.zoo.analysis.findings import (
    DIAGNOSIS,
    Calibration,
    Diagnosis,
    ExploitationGap,
    RewardError,
    TerminationErrors,
)
from mbrl_wrappers.zoo.analysis.model_error import HorizonError
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.report import build_report, plots
from mbrl_wrappers.zoo.report import model as report_model
from mbrl_wrappers.zoo.report.runs import find_runs, group_by_env
from mbrl_wrappers.zoo.report.sentences import (
    MINUS,
    exploitation_sentence,
    number,
    seconds,
    termination_sentence,
    trust_sentence,
)
from mbrl_wrappers.zoo.storage.folder import ENV, JOB, open_folder
from mbrl_wrappers.zoo.storage.manifest import write_manifest
from mbrl_wrappers.zoo.storage.tables import write_rows
from mbrl_wrappers.zoo.training.command import command_of
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.recipe import SECTIONS
from mbrl_wrappers.zoo.training.run import run

CHROMIUM = "/usr/bin/chromium"
HOSTILE = "<script>document.title = 'owned'</script>"
LOADED = "v => v.readyState >= 2 || new Promise(done => v.onloadeddata = done)"
TINY = {
    "agent.learning_starts": 100,
    "agent.gradient_steps": 1,
    "agent.policy_kwargs": {"net_arch": [8]},
    "dynamics.hidden": [16],
    "dynamics.num_members": 2,
    "dynamics.num_elites": 2,
    "dynamics.max_steps": 60,
    "model_based.fit_every": 100,
    "strategy.rollouts_per_step": 5,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 200 steps on Pendulum-v1, with its diagnosis."""
    folder = tmp_path_factory.mktemp("runs") / "mbpo"
    spec = make_job("mbpo", "Pendulum-v1", steps=200, params=TINY, eval_freq=100, eval_episodes=4, save_freq=0)
    run(spec, folder)
    return folder


def unfinished(folder: Path, like: JobSpec, returns: list[float], **changes: Any) -> Path:
    """Write what a run leaves that was interrupted."""
    folder.mkdir(parents=True)
    (folder / JOB).write_text(dataclasses.replace(like, **changes).to_json())
    if returns:
        rows = [Evaluation(50 * i, value, 1.0, i, 7.0 * i, 6.0 * i) for i, value in enumerate(returns, start=1)]
        write_rows(folder / "progress.csv", rows)
    return folder


def finished(folder: Path, trained: Path, env: str | None = None, **changes: Any) -> Path:
    """Copy a finished run, as if it were of another job."""
    shutil.copytree(trained, folder)
    records = set(open_folder(folder).records)
    spec = JobSpec.from_json((folder / JOB).read_text())
    if env is not None:
        changes["env"] = env
        record = json.loads((folder / ENV).read_text())
        (folder / ENV).write_text(json.dumps({**record, "name": env}))
    (folder / JOB).write_text(dataclasses.replace(spec, **changes).to_json())
    write_manifest(folder, records)
    return folder


@pytest.fixture(scope="module")
def runs(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds and a base on Pendulum-v1, a run that is not finished, and one that wishes harm."""
    root = tmp_path_factory.mktemp("report")
    spec = JobSpec.from_json((trained / JOB).read_text())
    for seed in range(3):
        finished(root / f"seed{seed}" / "mbpo", trained, seed=seed)
    finished(root / "seed0" / "base", trained, model=False)
    unfinished(root / "going-on", spec, [-1500.0, -1200.0], seed=3)
    finished(root / "hostile", trained, env=HOSTILE, env_kwargs={"note": HOSTILE}, agent="$m_{b}$<b>")
    return root


@pytest.fixture(scope="module")
def report(runs: Path) -> Path:
    return build_report([runs], runs / "report.html", title=f"Ours & {HOSTILE}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.fail(f"there is no {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """A page that is open, and what happened on it; whatever it asks for but itself is blocked and noted."""

    def __init__(self, browser: Browser, file: Path, width: int, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        address = file.as_uri()
        self.context.route("**/*", lambda route: self._route(route, address))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)

    @staticmethod
    def _route(route: Route, address: str) -> None:
        if route.request.url == address:
            route.continue_()
        else:
            route.abort()


@pytest.fixture
def visit(browser: Browser, report: Path) -> Iterator[Any]:
    visits: list[Visit] = []

    def open_page(width: int = 1280, scheme: str = "light") -> Visit:
        visits.append(Visit(browser, report, width, scheme))
        return visits[-1]

    yield open_page
    for opened in visits:
        opened.context.close()


def test_it_opens_offline_without_a_complaint(visit, report):
    opened = visit()
    opened.page.locator("video").evaluate(LOADED)
    assert opened.requests == [report.as_uri()]
    assert opened.complaints == []
    assert 50_000 < report.stat().st_size < 2_000_000
    assert not re.search(r"https?:|url\((?!#)", report.read_text())  # nothing to be fetched by any browser


def test_a_figure_shows_the_values_at_the_pointer_and_a_part_enlarged(visit):
    page = visit().page
    section = page.locator("section", has=page.get_by_role("heading", name="Pendulum-v1", exact=True))
    holder = section.locator("[data-curves]").first
    svg, values = holder.locator("svg"), holder.locator("output")
    whole = svg.get_attribute("viewBox")
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()

    def point(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    page.mouse.move(*point(0.9, 0.3))
    shown = values.inner_text()
    assert shown.startswith("at 200 ") and "MBPO(SAC): " in shown
    rows = table(page, "Results on Pendulum-v1")
    mean = next(row[2] for row in rows if row[0] == "MBPO(SAC)").split(" ")[0]
    assert f"MBPO(SAC): {mean}" in shown.replace("-", MINUS)  # the same number as in the table
    page.mouse.move(*point(0.3, 0.2))
    page.mouse.down()
    page.mouse.move(*point(0.7, 0.6))
    page.mouse.up()
    x, y, width, height = map(float, svg.get_attribute("viewBox").split())
    _, _, all_width, all_height = map(float, whole.split())
    assert width == pytest.approx(0.4 * all_width, abs=1) and height == pytest.approx(0.4 * all_height, abs=1)
    assert x == pytest.approx(0.3 * all_width, abs=1) and y == pytest.approx(0.2 * all_height, abs=1)
    page.mouse.dblclick(*point(0.5, 0.4))
    assert svg.get_attribute("viewBox") == whole


def test_the_contents_and_the_files_can_be_reached(visit, runs):
    page = visit().page
    targets = page.locator("nav a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
    assert len(targets) >= 6
    for target in targets:
        assert page.locator(f"[id='{target.removeprefix('#')}']").count() == 1
    files = page.locator("section a").evaluate_all(
        "links => links.map(a => decodeURIComponent(a.getAttribute('href')))"
    )
    assert len(files) > 5 and all((runs / file).exists() for file in files)


def test_the_page_says_how_it_was_made(visit):
    page = visit().page
    text = page.locator("main").inner_text()
    assert "mbrl-zoo train mbpo --env Pendulum-v1 -n 200 --seed 0 --params " in text
    assert re.search(r"Made with python 3\.\d+\.\d+, mbrl-wrappers ", text)
    assert re.search(r"Written on \d{4}-\d\d-\d\d \d\d:\d\d UTC", page.locator("header").inner_text())
    assert "The model's states" in page.locator(".verdict").last.inner_text()
    assert re.search(r"MBPO\(SAC\) and SAC return the same: \S+ It took", text)  # one is a copy of the other


def test_a_title_names_what_was_trained(trained, tmp_path):
    html = build_report([trained], tmp_path / "report.html", videos=False).read_text()
    assert "<title>MBPO(SAC) on Pendulum-v1</title>" in html


@pytest.mark.slow
def test_an_env_of_ones_own_is_filmed_where_it_is_named(trained, tmp_path):
    folder = finished(tmp_path / "own", trained, env="my_envs:Mine")
    without = build_report([folder], tmp_path / "without.html").read_text()
    assert "<video" not in without and "--env" in without
    assert "<video" in build_report([folder], tmp_path / "with.html", env="Pendulum-v1").read_text()
    with pytest.raises(ValueError, match=r"^env must be .*, got 'my_envs:Mine'"):
        build_report([folder], tmp_path / "wrong.html", env="my_envs:Mine")
    assert not (tmp_path / "wrong.html").exists()


def test_planted_scripts_are_text(visit):
    page = visit().page
    assert page.title() == f"Ours & {HOSTILE}"
    assert page.locator("script").count() == 1
    assert page.locator("h2", has_text=HOSTILE).count() == 1
    assert page.get_by_text("$M_{B}$<B>(SAC)").count() > 0  # in the table, and in the figures' legends


def test_the_policy_alone_would_stop_a_script(visit):
    opened = visit()
    opened.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.x = 1'}))"
    )
    assert opened.page.evaluate("window.x") is None
    assert any("Content Security Policy" in text for text in opened.complaints)


def test_the_video_plays(visit):
    page = visit().page
    video = page.locator("video").first
    video.evaluate(LOADED)
    assert video.evaluate("v => v.readyState") >= 2
    assert video.evaluate("v => [v.videoWidth, v.error]") == [644, None]
    video.evaluate("v => v.play()")
    video.evaluate("v => new Promise(done => v.ontimeupdate = () => v.currentTime > 0.2 && done())")
    assert video.evaluate("v => v.duration") == pytest.approx(200 / 30, abs=0.2)


def table(page: Page, name: str) -> list[list[str]]:
    rows = page.get_by_role("table", name=name).locator("tbody tr")
    return rows.evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.innerText))")


def test_a_click_on_a_header_sorts_and_another_turns_around(visit):
    page = visit().page
    page.locator("summary").last.click()
    name = "Runs on Pendulum-v1"
    header = page.get_by_role("table", name=name).locator("th", has_text="last return")
    column = [
        heading.split("\n")[0] for heading in page.get_by_role("table", name=name).locator("th").all_inner_texts()
    ]
    place = column.index("last return")
    assert header.get_attribute("aria-sort") is None
    seen = []
    for order in ("ascending", "descending"):
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == order
        seen.append(
            [float(row[place].split(" ± ")[0].replace(MINUS, "-").replace(",", "")) for row in table(page, name)]
        )
    assert seen[0] == sorted(seen[0]) and seen[1] == seen[0][::-1] and len(set(seen[0])) > 1
    by_agent = page.get_by_role("table", name=name).locator("th", has_text="agent").locator("button")
    by_agent.focus()
    page.keyboard.press("Enter")
    agents = [row[0] for row in table(page, name)]
    assert agents == sorted(agents) and len(set(agents)) == 2
    assert header.get_attribute("aria-sort") is None


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out(visit, width, scheme):
    page = visit(width, scheme).page
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    for text in page.locator("figure svg").evaluate_all(
        """figures => figures.flatMap(svg => [...svg.querySelectorAll("text")].map(text => {
            const [inner, outer] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
            const inside = inner.left >= outer.left - 1 && inner.right <= outer.right + 1
                && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1;
            return inside ? null : text.textContent;
        }))"""
    ):
        assert text is None, f"{text!r} is clipped"
    sizes = page.locator("figure svg text").evaluate_all("texts => texts.map(t => t.getBoundingClientRect().height)")
    assert min(sizes) > 9  # pixels, on a phone too


def test_what_the_page_says(report, visit):
    page = visit().page
    text = page.locator("body").inner_text()
    assert "6 runs on 2 environments" in text
    assert "1 of 5 runs is not finished" in text
    assert "The model of MBPO(SAC)" in text and "Of the agent of seed 1, the median of 3 seeds." in text
    assert re.search(r"(Trust the model for \d+|Do not trust)", text)
    assert "Exploitation gap:" in text and "Reward" in text and "Termination" in text
    assert page.locator("video").count() == 1
    labels = page.locator("[role=img]").evaluate_all("figures => figures.map(f => f.ariaLabel)")
    assert len(labels) == 3 + 5 + 3 + 5 and all(labels)
    reason = page.locator(".note", has_text="is not registered with Gymnasium here")
    assert reason.count() == 1 and reason.inner_text().startswith("There is no video")
    results = {row[0]: row for row in table(page, "Results on Pendulum-v1")}
    assert [results[label][1] for label in ("MBPO(SAC)", "SAC")] == ["3 (+1)", "1"]
    assert re.fullmatch(rf"{MINUS}[\d,.]+ ± 0", results["MBPO(SAC)"][2])
    assert re.fullmatch(rf"{MINUS}[\d,.]+ \[{MINUS}[\d,.]+, {MINUS}[\d,.]+\]", results["SAC"][3])


def test_the_same_runs_make_the_same_page(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    pages = [build_report([trained], tmp_path / name, videos=False).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1] and b"1970-01-02 00:00 UTC" in pages[0]
    for given in ("yesterday", "", "1" * 30):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
        with pytest.raises(ZooError, match=f"^SOURCE_DATE_EPOCH must be .*, got '{given}'"):
            build_report([trained], tmp_path / "a.html", videos=False)


def test_a_model_without_a_diagnosis_is_measured(trained, tmp_path, monkeypatch):
    folder = tmp_path / "mbpo"
    shutil.copytree(trained, folder)
    write_manifest(folder, set(open_folder(folder).records) - {DIAGNOSIS})
    measured = []

    def quick(*args: Any) -> Diagnosis:
        measured.append(diagnose(*args, steps=210, horizon=5))
        return measured[-1]

    monkeypatch.setattr(report_model, "diagnose", quick)
    html = build_report([folder], tmp_path / "report.html", videos=False).read_text()
    assert len(measured) == 1 and "<video" not in html
    assert number(measured[0].exploitation.mean) in html


def test_a_renderer_that_fails_leaves_a_sentence(trained, tmp_path, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no EGL\n  device")

    monkeypatch.setattr(report_model, "side_by_side_video", fail)
    html = build_report([trained], tmp_path / "report.html").read_text()
    assert "There is no video: no EGL device" in html and "Trust" in html.replace("Do not trust", "Trust")


def test_without_an_env_there_are_curves_and_a_reason(trained, tmp_path):
    folder = finished(tmp_path / "mbpo", trained, env="Nowhere-v0")
    write_manifest(folder, set(open_folder(folder).records) - {DIAGNOSIS})
    html = build_report([folder], tmp_path / "report.html").read_text()
    assert "The model is not shown: env &#39;Nowhere-v0&#39; is not registered" in html
    assert "Learning curves over wall time" in html and "<table" in html


def test_what_can_not_be_read_is_named(trained, tmp_path):
    finished(tmp_path / "a", trained)
    (finished(tmp_path / "altered", trained, seed=1) / "progress.csv").write_text("steps\n")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / JOB).write_text("<b>")
    (tmp_path / "number").mkdir()
    (tmp_path / "number" / JOB).write_text((trained / JOB).read_text().replace('"Pendulum-v1"', "5"))
    finished(tmp_path / "again", trained)
    found, left_out = find_runs([tmp_path, tmp_path / "a"])
    assert [run.path.name for run in found] == ["a"]
    reasons = {folder.path.name: folder.reason for folder in left_out}
    assert reasons.keys() == {"again", "altered", "number", "text"}
    assert "the same job as" in reasons["again"] and "progress.csv must have" in reasons["altered"]
    assert "env must be a string, got 5" in reasons["number"] and "a job as JSON" in reasons["text"]
    assert "Left out" in build_report([tmp_path], tmp_path / "r.html", videos=False).read_text()


def test_folders_without_a_run_are_refused(tmp_path):
    with pytest.raises(ZooError, match=r"folders must exist, got .*nowhere"):
        build_report([tmp_path / "nowhere"], tmp_path / "r.html")
    with pytest.raises(ZooError, match=r"folders must hold runs, there is no job\.json in"):
        build_report([tmp_path], tmp_path / "r.html")
    (tmp_path / JOB).write_text("{}")
    with pytest.raises(ZooError, match=r"at least one run that can be read: .*a job as JSON"):
        build_report([tmp_path], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_runs_that_only_started_make_a_page(trained, tmp_path):
    spec = JobSpec.from_json((trained / JOB).read_text())
    unfinished(tmp_path / "a", spec, [])
    html = build_report([tmp_path], tmp_path / "r.html").read_text()
    assert "0 of 200" in html and "<svg" not in html and "No finished agent here has a model" in html


def test_the_page_has_the_whole_command(trained, tmp_path):
    spec = JobSpec.from_json((trained / JOB).read_text())
    unfinished(tmp_path / "a", spec, [])
    html = build_report([tmp_path], tmp_path / "r.html").read_text()
    assert f'<pre class="command">{escape(command_of(spec))}</pre>' in html and "--eval-episodes 4" in html
    (tmp_path / "a" / JOB).write_text(
        dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, agent={})).to_json()
    )
    html = build_report([tmp_path], tmp_path / "r.html").read_text()
    assert "with the recipe below saved as recipe.yml" in html and "--recipe recipe.yml" in html


def test_other_settings_are_not_taken_for_seeds(trained, tmp_path):
    spec = JobSpec.from_json((trained / JOB).read_text())
    longer = dataclasses.replace(spec.recipe, strategy={**spec.recipe.strategy, "rollout_length": 5})
    for seed in (0, 1):
        for name, recipe in (("short", spec.recipe), ("long", longer)):
            unfinished(tmp_path / f"{name}{seed}", spec, [1.0], seed=seed, recipe=recipe)
            base = {"seed": seed, "recipe": recipe, "model": False, "eval_freq": 10 + seed}
            unfinished(tmp_path / f"base_{name}{seed}", spec, [1.0], **base)
    (section,) = group_by_env(find_runs([tmp_path])[0])
    assert {group.label: len(group.runs) for group in section.groups} == {
        "MBPO(SAC), strategy.rollout_length=5": 2,
        "MBPO(SAC), strategy.rollout_length=None": 2,
        "SAC": 4,  # has no model, so nothing of the model makes it another one
    }


@pytest.mark.parametrize("model", [True, False])
def test_runs_are_told_apart_by_the_settings_that_they_use(trained, tmp_path, model):
    """Those of a control are of its agent and its env, not of a model."""
    spec = dataclasses.replace(JobSpec.from_json((trained / JOB).read_text()), model=model)
    changes = {section: {**getattr(spec.recipe, section), "changed": 1} for section in SECTIONS}
    for name, value in {"none": None, "num_envs": 2, "algo": "TD3", **changes}.items():
        recipe = spec.recipe if value is None else dataclasses.replace(spec.recipe, **{name: value})
        unfinished(tmp_path / name, dataclasses.replace(spec, recipe=recipe), [1.0])
    (section,) = group_by_env(find_runs([tmp_path])[0])
    groups = [{run.path.name for run in group.runs} for group in section.groups]
    used = {"agent", "normalize", "num_envs", "algo"}
    alone = {*changes, *used} if model else used
    assert all({name} in groups for name in alone) and len(groups) == 1 + len(alone)
    labels = [group.label for group in section.groups]
    assert len(set(labels)) == len(labels) and any("normalize.changed=1" in label for label in labels)


def test_a_run_that_goes_on_does_not_count_beside_finished_ones(trained, tmp_path):
    spec = JobSpec.from_json((trained / JOB).read_text())
    unfinished(tmp_path / "b", spec, [-1.0, -2.0], seed=1)
    unfinished(tmp_path / "c", spec, [], seed=2)
    (section,) = group_by_env(find_runs([tmp_path])[0])
    assert [run.spec.seed for run in section.groups[0].counted] == [1]  # so far there is nothing else
    finished(tmp_path / "a", trained)
    (section,) = group_by_env(find_runs([tmp_path])[0])
    (group,) = section.groups
    assert [run.spec.seed for run in group.counted] == [0] and [run.spec.seed for run in group.others] == [1, 2]
    assert group.scores == [group.runs[0].returns]


def test_numbers_are_short():
    assert [number(x) for x in (1234567.8, -140.42, 0.12345, -0.0001, 0.0)] == [
        "1,234,568",
        f"{MINUS}140.4",
        "0.123",
        f"{MINUS}0.0001",
        "0",
    ]
    assert number(float("inf")) == "not finite"
    assert [seconds(x) for x in (0.07, 59, 61, 7384)] == ["0.07 s", "59 s", "1 min 01 s", "2 h 03 min"]


def a_diagnosis(trusted: int) -> Diagnosis:
    return Diagnosis(
        seed=0,
        steps=100,
        error=[HorizonError(step, 0.1, 0.2, 0.3) for step in range(1, 11)],
        calibration=None,
        reward=RewardError(False, 0.5, 2.0),
        termination=TerminationErrors(False, 3, 1, 2, 94),
        exploitation=ExploitationGap(100, [1.0, 3.0], [11.0, 5.0]),
        threshold=0.25,
        trusted_steps=trusted,
    )


@pytest.mark.parametrize(
    ("trusted", "start"),
    [
        (0, "Do not trust the model for even one step. "),
        (1, "Trust the model for 1 step. "),
        (4, "Trust the model for 4 steps. "),
        (10, "Trust the model for 10 steps or more. "),
    ],
)
def test_the_recommended_length_is_one_plain_sentence(trusted, start):
    assert trust_sentence(a_diagnosis(trusted)).startswith(start)


def test_ends_and_gaps_are_put_into_words():
    said = termination_sentence(a_diagnosis(1).termination, 100)
    assert said == "learned; 3 of 4 ends foreseen one step ahead, 2 false alarms in 96 other steps"
    said = exploitation_sentence(a_diagnosis(1).exploitation)
    assert "Exploitation gap: 6." in said and "returns 2 in reality, and 6 more in imagination" in said


def test_bands_and_thin_lines_are_drawn_for_several_seeds_only():
    def rows(*returns: float) -> list[Evaluation]:
        return [Evaluation(100 * i, value, 1.0, i, 200.0 * i, 1.0) for i, value in enumerate(returns, start=1)]

    _, (ax,) = plots.new_figure(1, "")
    plots.learning_curves(ax, {"one $x": [rows(0, 2)], "two": [rows(0, 2), rows(2, 4)]}, "wall_seconds")
    assert len(ax.collections) == 1 and len(ax.lines) == 1 + 3
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [200 / 60, 400 / 60])
    assert ax.get_xlabel() == "wall time of training (min)"
    plots.learning_curves(ax, {"a": [rows(0, 2, 4)]}, unfinished={"a": [rows(7)]})
    assert [line.get_linestyle() for line in ax.lines[-2:]] == [":", "-"]
    assert ax.lines[-1].get_xdata().tolist() == [100, 200, 300]  # what goes on does not cut the mean
    assert ">one $x<" in plots.svg_of(ax.figure)


def test_figures_take_what_is_not_finite():
    _, (error, spread, gap) = plots.new_figure(3, "")
    inf = float("inf")
    plots.model_error(error, [HorizonError(1, 0.1, 0.2, 0.3), HorizonError(2, 0.1, inf, inf)], threshold=0.25)
    plots.spread_calibration(spread, Calibration([(0.1, 0.0), (0.2, inf), (0.3, 0.4)], [(0.5, 0.5)]))
    plots.exploitation(gap, ExploitationGap(5, [1.0, 2.0], [inf, 3.0]))
    assert plots.svg_of(error.figure).startswith("<svg viewBox=")


@pytest.mark.parametrize(("error", "top"), [(10.0, plots.MAX_SHOWN_ERROR), (0.001, 1.4 * 0.25)])
def test_the_error_axis_shows_the_threshold(error, top):
    _, (ax,) = plots.new_figure(1, "")
    plots.model_error(ax, [HorizonError(step, error / 2, error, 2 * error) for step in (1, 2)], threshold=0.25)
    assert ax.get_ylim() == (0, pytest.approx(top))


@pytest.mark.parametrize("draw", [plots.uncertainty, plots.gradient_norms])
def test_uncertainty_gradients_and_weights_are_drawn(draw):
    rows = [HorizonError(step, 0.1 * step, 0.2 * step, step) for step in (1, 2, 3)]
    axes: Any = plots.new_figure(2, "")[1]
    left, right = axes
    draw(left, rows)
    plots.horizon_weights(right, [0.5, 0.7, -0.2])
    assert left.get_yscale() == "log"
    assert left.lines[0].get_ydata().tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert [bar.get_height() for bar in right.patches] == [0.5, 0.7, -0.2]


def test_a_gap_of_no_size_looks_like_none():
    _, (ax,) = plots.new_figure(1, "")
    plots.exploitation(ax, ExploitationGap(100, [100.0, 100.0], [99.99, 100.01]))
    assert ax.get_xlim() == ax.get_ylim() == pytest.approx((95, 105), abs=0.1)
