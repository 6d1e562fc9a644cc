"""Try the library on environments that nobody here wrote, and other models on the same rows.

In an environment with the library, install what ``third_party.txt`` lists (see there), then:

    python benchmarks/third_party.py                                  # all of it, what is done already left alone
    python benchmarks/third_party.py --only minigrid/Empty-8x8-v0     # one env; a package's name stands for its envs
    python benchmarks/third_party.py --models ours --again            # the library alone, on the stored rows

Every stage of an env has a process of its own, so that no crash ends the table; a package that is missing is a row
that says so. Rows, records and models go to ``--folder``, the table to ``docs/results/third_party.{md,csv}``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peer import MBRL_LIB
from third_party_envs import TASKS, Task
from third_party_rows import UNFINISHED, read_record, update_record
from third_party_table import write_table

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "docs" / "results"
MODELS = ("ours", "mbrl-lib", "hgb")
FULL, QUICK = (1500, 1000), (200, 100)
# On a machine with other work the clock runs ahead of CPU time; and an env may wait for ever.
CLOCK_FACTOR, CLOCK_EXTRA = 5, 60


def stages_of(models: Sequence[str]) -> list[str]:
    """Return what there is to do in an env, in order: a model of ours is also put to use."""
    order = {"ours": ["ours", "use"], "mbrl-lib": ["mbrl-lib"], "hgb": ["hgb"]}
    return ["collect", *(stage for model, stages in order.items() if model in models for stage in stages)]


def command_of(stage: str, task: Task, folder: Path, sizes: tuple[int, int], settings: str) -> list[str]:
    if stage == "mbrl-lib":
        rows, record = (str(folder / f"{task.file}{suffix}") for suffix in (".npz", ".json"))
        return [str(MBRL_LIB.install()), str(HERE / "third_party_mbrl_lib.py"), rows, record]
    return [
        sys.executable,
        str(HERE / "third_party_stages.py"),
        stage,
        task.name,
        str(folder),
        *map(str, sizes),
        settings,
    ]


def run_process(command: list[str], seconds: float) -> tuple[str | None, float]:
    """Run a command with a limit of CPU seconds.

    Returns:
        What went wrong, None if nothing did, and the CPU seconds that it took.
    """
    limit = math.ceil(seconds)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    problem = None
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy", "MUJOCO_GL": "disabled"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=CLOCK_FACTOR * limit + CLOCK_EXTRA,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5)),
        )
        if done.returncode == -signal.SIGXCPU:
            problem = f"more than {limit} CPU seconds"
        elif done.returncode:
            last = (done.stderr.strip() or "no word").splitlines()[-1]
            problem = f"ended with code {done.returncode}: {last}"
    except subprocess.TimeoutExpired:
        problem = "took too long by the clock"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return problem, used


def try_env(task: Task, folder: Path, args: argparse.Namespace) -> None:
    """Do all stages of an env that are not done, or are to be done again."""
    record, sizes = folder / f"{task.file}.json", QUICK if args.quick else FULL
    update_record(record, "task", {"package": task.package, "env": task.env, "kind": task.kind})
    left = args.seconds
    for stage in stages_of(args.models):
        known = read_record(record).get(stage, {})
        is_done = bool(known) and UNFINISHED not in known.values()  # a run that was stopped leaves it begun
        if (is_done and not (args.again and stage != "collect")) or not _can_start(record, stage):
            continue
        update_record(record, stage, {})
        problem, used = run_process(command_of(stage, task, folder, sizes, json.dumps(args.settings)), left)
        left = max(left - used, 1)
        found = read_record(record)[stage]
        if problem and not (stage == "use" and found):
            update_record(record, stage, {"error": problem})
        elif problem:
            update_record(record, stage, {k: problem if v == UNFINISHED else v for k, v in found.items()})
        print(f"{task.name}: {stage}, {used:.0f} CPU s {problem or ''}", flush=True)


def _can_start(record: Path, stage: str) -> bool:
    """Tell whether the stage that this one needs went well."""
    needed = {"collect": None, "use": "ours"}.get(stage, "collect")
    return needed is None or "error" not in read_record(record).get(needed, {"error": ""})


def chosen(only: str | None) -> list[Task]:
    tasks = [task for task in TASKS if only in (None, task.package, task.name)]
    if not tasks:
        raise ValueError(f"--only must be a package or PACKAGE/ENV of {[task.name for task in TASKS]}, got {only!r}")
    return tasks


def _models(text: str) -> list[str]:
    models = text.split(",")
    if wrong := set(models) - set(MODELS):
        raise argparse.ArgumentTypeError(f"must be among {', '.join(MODELS)}, got {', '.join(sorted(wrong))}")
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PACKAGE[/ENV]", help="default: all")
    parser.add_argument("--models", type=_models, default=list(MODELS), help="some of ours,mbrl-lib,hgb")
    parser.add_argument("--again", action="store_true", help="fit again; rows that are stored stay")
    parser.add_argument("--quick", action="store_true", help="few rows, to see that it works")
    parser.add_argument("--seconds", type=float, default=150, help="of CPU time for an env, all stages together")
    parser.add_argument("--settings", type=json.loads, default={}, metavar="JSON", help="of our model, by name")
    parser.add_argument("--folder", type=Path, default=HERE.parent / "runs" / "third_party", help="rows and records")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the table goes")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for task in chosen(args.only):
        try_env(task, args.folder, args)
    records = [read_record(args.folder / f"{task.file}.json") for task in TASKS]
    write_table([record for record in records if record], args.results)


if __name__ == "__main__":
    main()
