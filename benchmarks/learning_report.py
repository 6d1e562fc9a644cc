"""The tables and the picture of the learning evidence, from the committed curves."""

from __future__ import annotations

from experiments import EXPERIMENTS, PPO_FILE, RESULTS, Experiment, recipe_of, spread, versions, write_page

from mbrl_wrappers.zoo.report.plots import learning_curves, new_figure, save_figure
from mbrl_wrappers.zoo.storage.tables import read_rows
from mbrl_wrappers.zoo.training.progress import Evaluation

# A run ends with the rollout in which its steps are done.
OVERSHOOT = 31

# Mean and standard deviation over 5 seeds of MBPO on Hopper, by env steps: curves published with the code of erl_lib.
PUBLISHED_HOPPER = {20_000: (532, 227), 50_000: (1728, 836), 100_000: (3306, 346)}


def write_tables() -> None:
    """Write docs/results/learning.md and docs/results/curves.svg."""
    write_page("learning", document())
    draw(learned())


def learned() -> list[str]:
    """The envs that MBPO has committed curves of."""
    return [env for env in EXPERIMENTS if curves(env, "mbpo")]


def document() -> str:
    """The page from the committed curves."""
    lines = [
        "# Learning results",
        "",
        "Each agent compared with the same agent without a model, at equal updates per env step, after equal env",
        "steps and after equal time. Returns are means over 20 evaluation episodes with the deterministic policy, the",
        "same start states at each evaluation; every seed that was run is shown. CPU seconds are those of training",
        "alone, on one thread; the clock shows more, since several runs shared two cores. Equal time is equal CPU",
        "time, rounded down to an evaluation; `<` marks a run that ended before it had used its time up.",
        "",
        f"{versions()};",
        "two cores of an AMD EPYC. Written by `python benchmarks/learning.py table` from the curves in the folders",
        "next to this page. SAC is `CompiledSAC` with and without a model: the same updates in less time; its half",
        "minute of compiling is included. The sections were run one after the other while the library was worked on.",
        "",
    ]
    for env in learned():
        lines += [f"## {env}", "", *notes(env), *(hopper_table() if env == "Hopper-v5" else target_table(env)), ""]
        lines += uniform_notes(env)
        variants = " --variants mbpo base timed" if EXPERIMENTS[env].timed_steps else ""
        seeds = " ".join(map(str, curves(env, "mbpo")))
        lines += [f"Runs: `python benchmarks/learning.py run {env} --seeds {seeds}{variants}`", ""]
    if (RESULTS / PPO_FILE).exists():
        lines += ppo_table()
    return "\n".join(lines)


def curves(env: str, variant: str) -> dict[int, list[Evaluation]]:
    """The committed curves of an env, by seed."""
    files = sorted((RESULTS / env).glob(f"{variant}_seed*.csv"))
    return {int(file.stem.rsplit("seed", 1)[1]): read_rows(file, Evaluation) for file in files}


def notes(env: str) -> list[str]:
    """Return the line that says how the agents of an env were trained."""
    recipe = recipe_of(env)
    updates = recipe.agent["gradient_steps"] / recipe.agent.get("train_freq", 1)
    text = f"{recipe.algo}, {updates:g} updates per env step"
    if EXPERIMENTS[env].note:
        text += f". {EXPERIMENTS[env].note}"
    return [text, ""]


def target_table(env: str) -> list[str]:
    """Every seed, failed ones too, and the two controls."""
    experiment = EXPERIMENTS[env]
    mbpo, base = curves(env, "mbpo"), curves(env, "base")
    longer = curves(env, "timed") or base
    algo = recipe_of(env).algo
    target, steps = f"{experiment.target:g}", f"{experiment.steps:,}"
    lines = [
        f"| seed | MBPO({algo}): steps to {target} | return at {steps} | CPU s | clock s "
        f"| {algo} alone: steps to {target} | return at {steps} | CPU s | return after MBPO's CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    columns: dict[str, list[float]] = {name: [] for name in ("mbpo", "cpu", "clock", "base", "base cpu", "time")}
    for seed, rows in mbpo.items():
        last = at_steps(rows, experiment.steps)
        cells = [steps_to(rows, experiment), f"{last.return_mean:.1f}", f"{last.cpu_seconds:.0f}"]
        cells.append(f"{last.wall_seconds:.0f}")
        for name, value in (("mbpo", last.return_mean), ("cpu", last.cpu_seconds), ("clock", last.wall_seconds)):
            columns[name].append(value)
        if seed in base:
            equal = at_steps(base[seed], experiment.steps)
            timed, is_used_up = at_time(longer.get(seed, base[seed]), last.cpu_seconds)
            mark = "" if is_used_up else "<"
            cells += [steps_to(base[seed], experiment), f"{equal.return_mean:.1f}", f"{equal.cpu_seconds:.0f}"]
            cells.append(f"{mark}{timed.return_mean:.1f} ({timed.steps:,} steps)")
            values = (("base", equal.return_mean), ("base cpu", equal.cpu_seconds), ("time", timed.return_mean))
            for name, value in values:
                columns[name].append(value)
        else:
            cells += ["not run"] * 4
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    means = {name: spread(v, 1) if v else "-" for name, v in columns.items()}
    lines.append(
        f"| mean ± std | {reached(mbpo, experiment)} | {means['mbpo']} | {means['cpu']} | {means['clock']} "
        f"| {reached(base, experiment)} | {means['base']} | {means['base cpu']} | {means['time']} |"
    )
    return lines


def uniform_notes(env: str) -> list[str]:
    """What uniform imagined actions change, where they were tried."""
    experiment, seeds = EXPERIMENTS[env], curves(env, "uniform")
    if not seeds:
        return []
    reaches = ", ".join(steps_to(rows, experiment) for rows in seeds.values())
    returns = [at_steps(rows, experiment.steps).return_mean for rows in seeds.values()]
    return [
        f"With uniform imagined actions, `Dyna(exploration=1)`, {reached(seeds, experiment)} reach "
        f"{experiment.target:g}; by seed, steps to it: {reaches}; return at {experiment.steps:,}: "
        f"{', '.join(f'{r:.1f}' for r in returns)} (mean {spread(returns, 1)}). "
        f"Runs: `python benchmarks/learning.py run {env} --variants uniform`",
        "",
    ]


def hopper_table() -> list[str]:
    """Each seed's return along the way, and the published curve."""
    runs = {
        f"{label}, seed {seed}": rows
        for label, variant in (("MBPO", "mbpo"), ("SAC alone", "base"))
        for seed, rows in curves("Hopper-v5", variant).items()
    }
    longest = max(rows[-1].steps for rows in runs.values())
    lines = [
        "| env steps | " + " | ".join(runs) + " | MBPO as published |",
        "|---|" + "---|" * (len(runs) + 1),
    ]
    for steps in range(2_000, longest + 1, 2_000):
        cells = []
        for rows in runs.values():
            row = at_steps(rows, steps)
            cells.append(f"{row.return_mean:.0f}" if steps - row.steps < 1_000 else "-")
        published = PUBLISHED_HOPPER.get(steps)
        cells.append(f"{published[0]} ± {published[1]}" if published else "-")
        lines.append(f"| {steps:,} | " + " | ".join(cells) + " |")
    seconds = [f"{rows[-1].cpu_seconds:.0f} s for {rows[-1].steps:,}" for rows in runs.values()]
    lines.append("| CPU time | " + " | ".join(seconds) + " | - |")
    later = ", ".join(f"{m} ± {s} at {n:,}" for n, (m, s) in PUBLISHED_HOPPER.items() if n > longest)
    return [*lines, "", f"The published curve goes on: {later}."]


def ppo_table() -> list[str]:
    header, *rows = (RESULTS / PPO_FILE).read_text().splitlines()
    columns = header.split(",")
    means = [float(row.split(",")[columns.index("return_mean")]) for row in rows]
    return [
        "## PPO trained only inside a model of Pendulum-v1 that was learned from 3,000 random steps",
        "",
        "| " + " | ".join(name.replace("_", " ") for name in columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + row.replace(",", " | ") + " |" for row in rows),
        "",
        f"Mean over seeds {spread(means, 1)}; {sum(m >= -400 for m in means)} of {len(means)} "
        "reach -400 in the real env.",
        "",
        "Runs: `python benchmarks/learning.py ppo`",
        "",
    ]


def draw(envs: list[str]) -> None:
    title = "MBPO and the same agent without a model, equal updates per step"
    figure, axes = new_figure(2, title, rows=-(-len(envs) // 2))
    for ax in axes[len(envs) :]:
        ax.set_axis_off()
    for ax, env in zip(axes, envs, strict=False):
        algo, steps = recipe_of(env).algo, EXPERIMENTS[env].steps
        drawn = {f"MBPO({algo})": curves(env, "mbpo"), f"{algo} alone": curves(env, "base")}
        within = {
            label: [[row for row in rows if row.steps <= steps + OVERSHOOT] for rows in seeds.values()]
            for label, seeds in drawn.items()
            if seeds
        }
        learning_curves(ax, within)
        ax.set_title(env, loc="left")
    save_figure(figure, RESULTS / "curves.svg")


def at_steps(rows: list[Evaluation], steps: int) -> Evaluation:
    """The last evaluation within a number of env steps."""
    return [row for row in rows if row.steps <= steps + OVERSHOOT][-1]


def at_time(rows: list[Evaluation], cpu_seconds: float) -> tuple[Evaluation, bool]:
    """The last evaluation within a time, and whether the run went on beyond it."""
    within = [row for row in rows if row.cpu_seconds <= cpu_seconds]
    return within[-1], len(within) < len(rows)


def steps_to(rows: list[Evaluation], experiment: Experiment) -> str:
    within = [row for row in rows if row.steps <= experiment.steps + OVERSHOOT]
    first = [row.steps for row in within if row.return_mean >= experiment.target]
    return f"{first[0]:,}" if first else "not reached"


def reached(seeds: dict[int, list[Evaluation]], experiment: Experiment) -> str:
    return f"{sum(steps_to(rows, experiment) != 'not reached' for rows in seeds.values())} of {len(seeds)} seeds"
