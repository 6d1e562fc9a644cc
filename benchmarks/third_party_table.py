"""From the records of the envs to a table, as Markdown and CSV."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from third_party_rows import HORIZONS

SIDES = {"ours": "ours", "mbrl-lib": "mbrl-lib", "hgb": "trees"}
AS_GOOD = 0.005  # skills that differ by less are shown alike
CLEARLY = 0.1
LONGEST = 90

HEADS = (
    "env",
    "fit, CPU s: ours / mbrl-lib / trees",
    "skill at 1: ours / mbrl-lib / trees",
    "skill at 10: ours / mbrl-lib / trees",
    "best at 1; 10",
    "ends: precision, recall",
    "reward R²",
    "Dyna",
    "checks of ImaginedEnv",
    "MPC",
    "snapshots",
)

Record = dict[str, Any]


def skill_of(record: Record, side: str, horizon: int) -> float | None:
    return record.get(side, {}).get(f"skill_{horizon}")


def best_of(record: Record, horizon: int) -> list[str]:
    """Return the sides that foresee best, several where they differ by next to nothing; [] where not all are there."""
    skills = {side: skill_of(record, side, horizon) for side in SIDES}
    known = {side: value for side, value in skills.items() if value is not None}
    if len(known) < len(skills):
        return []
    most = max(known.values())
    return [side for side, value in known.items() if value >= most - AS_GOOD]


def _skill(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value > -1 else "< -1"


def _triple(texts: list[str]) -> str:
    return " / ".join(texts)


def _seconds(found: Record) -> str:
    return f"{found['fit_seconds']:.0f}" if "fit_seconds" in found else "-"


def ends_of(found: Record) -> str:
    if "ends" not in found:
        return "-"
    if not found["ends"] and not found["ends_foreseen"]:
        return f"none ({found['ends_in_train']} in training)"
    precision = found["ends_met"] / found["ends_foreseen"] if found["ends_foreseen"] else math.nan
    recall = found["ends_met"] / found["ends"] if found["ends"] else math.nan
    shown = ["-" if math.isnan(share) else f"{share:.2f}" for share in (precision, recall)]
    return f"{shown[0]}, {shown[1]} ({found['ends']} ends)"


def row_of(record: Record) -> list[str]:
    """Return the cells of one env, in full."""
    task, ours, use = record["task"], record.get("ours", {}), record.get("use", {})
    name = f"{task['package']}: {task['env']}"
    if "error" in record.get("collect", {}):
        return [name, f"can't be collected: {record['collect']['error']}", *["-"] * (len(HEADS) - 2)]
    reward = ours.get("reward_r2")
    return [
        name,
        _triple([_seconds(record.get(side, {})) for side in SIDES]),
        *(_triple([_skill(skill_of(record, side, horizon)) for side in SIDES]) for horizon in HORIZONS),
        "; ".join(", ".join(SIDES[side] for side in best_of(record, horizon)) or "-" for horizon in HORIZONS),
        ours["error"] if "error" in ours else ends_of(ours),
        "-" if reward is None else f"{reward:.2f}",
        *(use.get(part, use.get("error", "-")) for part in ("dyna", "imagined", "mpc", "snapshots")),
    ]


def _short(cell: str) -> str:
    cell = " ".join(cell.split()).replace("|", "\\|")
    return cell if len(cell) <= LONGEST else f"{cell[: LONGEST - 3]}..."


def summary(records: list[Record]) -> list[str]:
    """Return sentences: how often ours is best, and where another is better by more than a tenth."""
    lines = []
    for horizon in HORIZONS:
        steps = f"{horizon} step{'s' if horizon > 1 else ''}"
        vectors = [r for r in records if r["task"]["kind"] == "vector" and best_of(r, horizon)]
        won = sum("ours" in best_of(r, horizon) for r in vectors)
        if vectors:
            lines.append(f"At {steps} ours is the best of the three on {won} of {len(vectors)} vector envs.")
        for record in records:
            own = skill_of(record, "ours", horizon)
            for side in ("mbrl-lib", "hgb"):
                other = skill_of(record, side, horizon)
                if own is not None and other is not None and other > own + CLEARLY:
                    kind = "" if own > 0 or other <= 0 else ", ours has none"
                    name = f"{record['task']['package']}: {record['task']['env']}"
                    lines.append(
                        f"{name}, {steps}: {SIDES[side]} is better, {_skill(other)} where ours has {_skill(own)}{kind}."
                    )
    return lines


_DOCUMENT = """\
# Environments that nobody here wrote

`python benchmarks/third_party.py` measures and writes this page (what it needs: `benchmarks/third_party.txt`). Every
model is fitted on the same {rows} rows of uniform random actions and tested on those that follow.

{table}

{summary}

- Skill: 1 - MSE / MSE of "no change", of the mean prediction, after 1 and after 10 steps with the real actions, fed
  its own predictions; columns in units of their spread in training, those left out that never change within a step.
  1 is exact, 0 no better than "no change". "Best": within {as_good} of the best.
- ours: `EnsembleDynamics.for_env(env)`{settings}. mbrl-lib 0.2.0: its MBPO ensemble (7 x 4 x 200, 5 elites, batches
  of 64). trees: scikit-learn's `HistGradientBoostingRegressor` for the change of each column.
- Ends: the learned terminations of the test rows. Dyna: a short run of SAC or DQN under `ModelBased(Dyna())`. Checks:
  Gymnasium's and SB3's `check_env` of `ImaginedEnv`. MPC: one plan of `MPCAction` with the learned model. Snapshots:
  whether `Snapshots(env)` restores it exactly.
- Full texts of errors are in `third_party.csv`.
"""


def write_table(records: list[Record], folder: Path) -> None:
    """Write third_party.md and third_party.csv, and print the former."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row_of(record) for record in records]
    with (folder / "third_party.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADS, *([" ".join(c.split()) for c in row] for row in rows)])
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(map(_short, row)) + " |" for row in rows]
    found = [record["ours"] for record in records if "rows" in record.get("ours", {})]
    text = _DOCUMENT.format(
        rows=" or ".join(sorted({f"{ours['rows']:,}" for ours in found})) or "-",
        table="\n".join(lines),
        summary="\n".join(f"- {line}" for line in summary(records)),
        as_good=AS_GOOD,
        settings="".join(sorted({f" with {ours['settings']}" for ours in found if ours["settings"]})),
    )
    (folder / "third_party.md").write_text(text)
    print(text)
