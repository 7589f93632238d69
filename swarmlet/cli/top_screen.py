"""What `top` shows, as lines of text. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Keys that choose the order, and what they mean.
ORDERS = {"c": "CPU", "m": "MEMORY", "n": "NAME"}
Json = dict[str, Any]
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
#: One line in so many is for nodes, where there are more of them and of tasks than lines.
NODES_SHARE = 3
#: Of what was not measured.
UNKNOWN = "?"


def size(amount: float) -> str:
    """Bytes with a unit: "12.3 MiB"."""
    unit = 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


def share(part: float, whole: float) -> str:
    """A share in percent; nothing of nothing is unknown."""
    return f"{100 * part / whole:.0f} %" if whole else UNKNOWN


def node_rows(answer: Json, order: str) -> list[list[str]]:
    """A row per node, with its header first."""
    rows = [["NODE", "CPU", "CORES", "MEMORY", "OF", "DISK FREE", "TASKS", ""]]
    keys: dict[str, Callable[[Json], Any]] = {
        "c": lambda node: -(node["Host"] or {}).get("CPUPercent", -1.0),
        "m": lambda node: -((node["Host"] or {}).get("Memory") or {}).get("Used", -1),
        "n": lambda node: node["Name"],
    }
    for node in sorted(answer["Nodes"], key=lambda node: (keys[order](node), node["Name"])):
        host = node["Host"]
        if host is None:
            rows.append([node["Name"], UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, node["Error"]])
            continue
        memory, disk = host["Memory"], host["DiskStats"][0]
        rows.append(
            [
                node["Name"],
                f"{host['CPUPercent']:.0f} %",
                str(host["Cores"]),
                size(memory["Used"]),
                size(memory["Total"]),
                f"{size(disk['Available'])} ({share(disk['Available'], disk['Size'])})",
                str(len(node["Tasks"]) + node["LeftOut"]),
                "",
            ]
        )
    return rows


def task_rows(answer: Json, order: str) -> list[list[str]]:
    """A row per task, with its header first."""
    rows = [["TASK", "ALLOC", "NODE", "CPU", "MEMORY", "OF", "DISK R/W", "NET IN/OUT"]]
    found = [(node, task) for node in answer["Nodes"] for task in node["Tasks"]]

    def name(task: Json) -> str:
        return f"{task['JobID']}.{task['Group']}[{task['Index']}]/{task['Task']}"

    keys: dict[str, Callable[[Json], Any]] = {
        "c": lambda task: -task["ResourceUsage"]["CpuStats"]["Percent"],
        "m": lambda task: -task["ResourceUsage"]["MemoryStats"]["Usage"],
        "n": name,
    }
    for node, task in sorted(
        found, key=lambda item: (keys[order](item[1]), name(item[1]), item[1]["AllocID"])
    ):
        usage = task["ResourceUsage"]
        cpu, memory = usage["CpuStats"], usage["MemoryStats"]
        disk, network = usage["DiskStats"], usage["NetworkStats"]
        rows.append(
            [
                name(task),
                task["AllocID"][:8],
                node["Name"],
                f"{cpu['Percent']:.1f} %" if cpu["Measured"] else UNKNOWN,
                size(memory["Usage"]) if memory["Measured"] else UNKNOWN,
                size(task["ReservedMemory"]),
                f"{size(disk['ReadBytes'])}/{size(disk['WrittenBytes'])}" if disk["Measured"] else UNKNOWN,
                f"{size(network['ReceivedBytes'])}/{size(network['SentBytes'])}"
                if network["Measured"]
                else UNKNOWN,
            ]
        )
    return rows


def aligned(rows: list[list[str]], columns: int) -> list[str]:
    """Rows as lines of at most `columns` characters: names to the left, amounts to the right."""
    if not rows:
        return []
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at == 0 or rows[0][at] in {"ALLOC", "NODE", ""} else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip()[:columns])
    return lines


def screen(answer: Json, *, columns: int, lines: int, order: str, note: str) -> list[str]:
    """A whole screen: a title, the nodes, the tasks, as many of each as there is room for."""
    nodes, tasks = aligned(node_rows(answer, order), columns), aligned(task_rows(answer, order), columns)
    title = f"swarmlet top · {note} · by {ORDERS[order]} (c m n) · q quits"[:columns]
    room = max(0, lines - 4)
    node_room = min(len(nodes), max(2, room // NODES_SHARE, room - len(tasks)))
    shown = [title, "", *_cut(nodes, node_room, "nodes"), "", *_cut(tasks, room + 1 - node_room, "tasks")]
    return [line[:columns] for line in shown[:lines]]


def _cut(rows: list[str], room: int, what: str) -> list[str]:
    if len(rows) <= room:
        return rows
    kept = max(1, room - 1)
    return [*rows[:kept], f"… {len(rows) - kept} more {what}"]
