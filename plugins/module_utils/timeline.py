# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""When each task waited and ran, and where: as data, as a picture, and as a page."""

from __future__ import annotations

import html
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.dataops.airflow.plugins.module_utils.airflow_api import seconds

Task = Mapping[str, Any]
"""`task`, `host`, `slots` that it takes; `scheduled`, `queued`, `start`, `end` in seconds since the first could run."""

COLOURS = {"limit": "#d9d9d9", "worker": "#fdb863", "runs": "#2b6cb0"}
"""A task that waits for its turn (pool, parallelism, limits of its DAG), that waits for a worker, that runs."""
NAMED = 60
"""Most tasks that are drawn with their names."""
INCHES, ROW = 9.0, 0.24
"""Width of a picture, and height of a row in it."""


class NoPlotterError(Exception):
    """The library that draws is not installed; the message says what to do."""


def times(instances: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """When the task instances of the API waited and ran; those that never started are left out.

    :param names: ``{address under which a worker reports: name to show}``.
    """
    started = [one for one in instances if one["start_date"] and one["end_date"]]
    known = [{key: seconds(one[key]) for key in ("scheduled_when", "queued_when", "start_date")} for one in started]
    # What the scheduler did not note was immediate.
    ready = [[one["scheduled_when"] or one["start_date"], one["queued_when"] or one["start_date"]] for one in known]
    zero = min((moment for pair in ready for moment in pair), default=0.0)
    return [
        {
            "task": one["task_id"] if one["map_index"] < 0 else f"{one['task_id']}[{one['map_index']}]",
            "host": names.get(one["hostname"], one["hostname"]),
            "scheduled": round(min(pair) - zero, 2),
            "queued": round(pair[1] - zero, 2),
            "start": round(seconds(one["start_date"]) - zero, 2),
            "end": round(seconds(one["end_date"]) - zero, 2),
            "slots": one.get("pool_slots", 1),
        }
        for one, pair in zip(started, ready, strict=True)
    ]


def lanes(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks in as few rows as possible, so that no two of a row wait or run at the same time."""
    rows: list[list[Task]] = []
    for task in sorted(tasks, key=lambda one: (one["start"], one["end"], one["task"])):
        row = next((row for row in rows if row[-1]["end"] <= task["scheduled"]), None)
        if row is None:
            rows.append([task])
        else:
            row.append(task)
    return rows


def usage(tasks: Sequence[Task]) -> list[tuple[float, int]]:
    """How many tasks run from each moment on at which that changes."""
    steps: dict[float, int] = {}
    for task in tasks:
        steps[task["start"]] = steps.get(task["start"], 0) + 1
        steps[task["end"]] = steps.get(task["end"], 0) - 1
    running, found = 0, [(0.0, 0)]
    for moment in sorted(steps):
        running += steps[moment]
        found.append((moment, running))
    return found


def hosts(tasks: Sequence[Task], slots: Mapping[str, int]) -> list[dict[str, Any]]:
    """What each host did, those that did nothing included.

    :param slots: ``{host: tasks that it may run at once}``; what is not known is left out.
    """
    found = []
    for host in sorted({*slots, *(task["host"] for task in tasks)}):
        own = [task for task in tasks if task["host"] == host]
        waits = [task["start"] - task["scheduled"] for task in own]
        found.append(
            {
                "host": host,
                "slots": slots.get(host),
                "tasks": len(own),
                "most": max((running for _, running in usage(own)), default=0),
                "busy": round(sum(task["end"] - task["start"] for task in own), 1),
                "wait": round(statistics.median(waits), 1) if waits else None,
            }
        )
    return found


def require_plotter() -> None:
    """Require the library that draws.

    :raises NoPlotterError: where it is missing.
    """
    try:
        import matplotlib  # noqa: F401  only who wants a picture needs it
    except ImportError as problem:
        raise NoPlotterError(
            "a report is drawn by matplotlib, which the Python of ansible-playbook does not have; "
            "install it there (pip install matplotlib), or ask for no report"
        ) from problem


def picture(title: str, tasks: Sequence[Task], slots: Mapping[str, int]) -> str:
    """The tasks on one time line for each host, and the slots that they use, as SVG.

    :raises NoPlotterError: where the library that draws is missing.
    """
    require_plotter()
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    by_host = [(one, lanes([task for task in tasks if task["host"] == one["host"]])) for one in hosts(tasks, slots)]
    heights = [max(len(rows), 1) * ROW + 0.35 for _, rows in by_host] + [1.2]
    # Text stays text, and the same tasks make the same file.
    told_to: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "dataops.airflow",
        "font.size": 8,
        "text.parse_math": False,
    }
    with mpl.rc_context(told_to):
        figure = Figure(figsize=(INCHES, sum(heights) + 1.0), layout="constrained")
        axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (one, rows) in zip(axes, by_host, strict=False):
            for number, row in enumerate(rows):
                for task in row:
                    for name, begin, end in (
                        ("limit", task["scheduled"], task["queued"]),
                        ("worker", task["queued"], task["start"]),
                        ("runs", task["start"], task["end"]),
                    ):
                        axis.barh(number, end - begin, left=begin, height=0.8, color=COLOURS[name], edgecolor="white")
                    if len(tasks) <= NAMED:
                        axis.text(task["start"], number, f" {task['task']}", va="center", color="white", clip_on=True)
            of = "" if one["slots"] is None else f" of {one['slots']}"
            count = f"{one['tasks']} task{'s' * (one['tasks'] != 1)}"
            axis.set_title(f"{one['host']}: {count}, at most {one['most']}{of} slots at once", loc="left")
            axis.set_yticks([])
            axis.set_ylim(max(len(rows), 1) - 0.4, -0.6)
        for one, _ in by_host:
            moments = usage([task for task in tasks if task["host"] == one["host"]])
            axes[-1].step(*zip(*moments, strict=True), where="post", label=one["host"])
        total = usage(tasks)
        axes[-1].fill_between(*zip(*total, strict=True), step="post", color="#e2e8f0", label="all")
        if len(slots) == len(by_host) and slots:
            axes[-1].axhline(sum(slots.values()), color="#c53030", linestyle="--", linewidth=1, label="slots")
        axes[-1].set_title("Slots used", loc="left")
        axes[-1].set_xlabel("seconds")
        axes[-1].set_ylim(bottom=0)
        axes[-1].yaxis.get_major_locator().set_params(integer=True)
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
        told = {"limit": "waits for its turn", "worker": "waits for a worker", "runs": "runs"}
        patches = [Patch(color=COLOURS[name], label=text) for name, text in told.items()]
        figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(title)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    # Without the head of a file of its own it may stand in a page.
    return "<svg" + drawn.getvalue().partition("<svg")[2]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of a page."""
    lines = ["".join(f"<th>{html.escape(name)}</th>" for name in head)]
    lines += ["".join(f"<td>{html.escape('' if cell is None else str(cell))}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>"


def page(title: str, text: str, tasks: Sequence[Task], slots: Mapping[str, int]) -> str:
    """A page that needs no other file: the text, the picture, and both as tables.

    :raises NoPlotterError: where the library that draws is missing.
    """
    of_hosts = [[one[key] for key in ("host", "tasks", "most", "slots", "busy", "wait")] for one in hosts(tasks, slots)]
    of_tasks = [
        [
            one["task"],
            one["host"],
            one["scheduled"],
            f"{one['queued'] - one['scheduled']:.2f}",
            f"{one['start'] - one['queued']:.2f}",
            one["start"],
            one["end"],
        ]
        for one in sorted(tasks, key=lambda one: one["start"])
    ]
    name = html.escape(title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{name}</title>
<style>
body {{font: 14px/1.5 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #1a202c}}
pre {{background: #f7fafc; padding: 1em; overflow: auto}}
svg {{max-width: 100%; height: auto}}
table {{border-collapse: collapse; margin: 1em 0}}
th, td {{border: 1px solid #e2e8f0; padding: 0.2em 0.6em; text-align: left}}
</style>
</head>
<body>
<h1>{name}</h1>
<pre>{html.escape(text.strip())}</pre>
<h2>When each task waited and ran</h2>
{picture("", tasks, slots)}
<h2>Hosts</h2>
{_table(["Host", "Tasks", "Most at once", "Slots", "Seconds of tasks", "Median wait, s"], of_hosts)}
<h2>Tasks</h2>
<p>In seconds since the first of them could run.</p>
{_table(["Task", "Host", "Could run", "Waited for its turn", "Waited for a worker", "Start", "End"], of_tasks)}
</body>
</html>
"""
