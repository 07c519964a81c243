#!/usr/bin/env python3
"""Draws the panels of the dashboards from a Prometheus, so that a person can look at them without Grafana.

    python3 -m pip install matplotlib
    OBSERVE_SECONDS=300 cargo test --test integration operations::prometheus -- --nocapture   # prints an address
    python3 dashboards/render.py http://127.0.0.1:PORT FOLDER [SECONDS]
"""
import json, math, pathlib, sys, time, urllib.parse, urllib.request
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter, NullFormatter

base, folder = sys.argv[1], pathlib.Path(sys.argv[2])
span = int(sys.argv[3]) if len(sys.argv) > 3 else 120
end = time.time(); start = end - span
COLORS = {"green": "#73bf69", "yellow": "#fade2a", "red": "#f2495c"}

def filled(expression):
    for variable in ("$job", "$instance", "$engine", "$rule"):
        expression = expression.replace(variable, ".*")
    return expression.replace("$__rate_interval", "5s")

def ask(path, **parameters):
    with urllib.request.urlopen(f"{base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as answer:
        return json.load(answer)["data"]["result"]

def over_time(expression):
    return ask("query_range", query=filled(expression), start=start, end=end, step=1)

def shown(value, unit):
    if value != value:
        return "no data"
    if unit == "s":
        for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
            if abs(value) * factor >= 1 or factor == 1e6:
                return "0" if value == 0 else f"{value * factor:.3g} {name}"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        return f"{value / 1024:.3g} KiB" if value >= 1024 else f"{value:.3g} B"
    if abs(value) >= 1e4:
        for factor, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {name}" + {"ops": "/s", "reqps": "/s"}.get(unit, "")
    return f"{value:.4g}" + {"ops": "/s", "reqps": "/s"}.get(unit, "")

def named(legend, labels):
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", value)
    return legend

def colour(panel, value):
    chosen = "green"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            chosen = step["color"]
    return COLORS[chosen]

def draw(axes, panel):
    kind, unit = panel["type"], panel["fieldConfig"]["defaults"]["unit"]
    axes.set_title(panel["title"], fontsize=8, loc="left")
    axes.tick_params(labelsize=6)
    if kind == "stat":
        axes.axis("off")
        texts = []
        for target in panel["targets"]:
            for series in over_time(target["expr"]):
                values = [float(v) for _, v in series["values"] if v not in ("NaN",)]
                value = values[-1] if values else math.nan
                texts.append((named(target["legendFormat"], series["metric"]) + " " + shown(value, unit), value))
        text = "\n".join(t for t, _ in texts) or "no data"
        if texts and len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1:
            axes.add_patch(plt.Rectangle((0, 0), 1, 1, transform=axes.transAxes, color=colour(panel, texts[0][1])))
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=13, transform=axes.transAxes)
    elif kind in ("timeseries",):
        custom = panel["fieldConfig"]["defaults"]["custom"]
        lines = []
        for target in panel["targets"]:
            for series in over_time(target["expr"]):
                points = [(float(t) - start, float(v)) for t, v in series["values"]]
                lines.append((named(target["legendFormat"], series["metric"]), points))
        if custom["stacking"]["mode"] == "normal":
            times = sorted({t for _, points in lines for t, _ in points})
            ys = [[dict(points).get(t, 0) for t in times] for _, points in lines]
            ys = [[0 if y != y else y for y in one] for one in ys]
            if times:
                axes.stackplot(times, ys, labels=[name for name, _ in lines], alpha=0.7)
        else:
            for name, points in lines:
                # As in Grafana, no line leads over a time without data; a point alone is seen.
                drawn = []
                for t, v in points:
                    if drawn and t - drawn[-1][0] > 1.5:
                        drawn.append((t - 1, math.nan))
                    drawn.append((t, v))
                axes.plot([t for t, _ in drawn], [v for _, v in drawn], label=name, linewidth=0.9, marker=".", markersize=1.5)
        if custom["scaleDistribution"]["type"] == "log":
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: shown(v, unit)))
        axes.set_xlim(0, span)
        if lines:
            axes.legend(fontsize=5, loc="upper left", ncol=2, framealpha=0.5)
        else:
            axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes)
    elif kind == "heatmap":
        found = over_time(panel["targets"][0]["expr"])
        found = sorted(found, key=lambda s: float(s["metric"]["le"].replace("+Inf", "inf")))
        columns = span + 1
        cumulated = [[0.0] * columns for _ in found]
        for row, series in zip(cumulated, found):
            for t, v in series["values"]:
                at = int(float(t) - start)
                if 0 <= at < columns:
                    row[at] = float(v)
        cells = [[max(0.0, a - b) for a, b in zip(row, below)] for row, below in
                 zip(cumulated, [[0.0] * columns] + cumulated[:-1])]
        cells = [[c if c > 1e-9 else math.nan for c in row] for row in cells]
        if found and any(c == c for row in cells for c in row):
            axes.pcolormesh(cells, cmap="Oranges", norm=LogNorm(), shading="auto")
            axes.set_yticks([i + 1 for i in range(len(found))])
            axes.set_yticklabels([shown(float(s["metric"]["le"].replace("+Inf", "inf")), unit) for s in found], fontsize=5)
    elif kind == "state-timeline":
        names = []
        for target in panel["targets"]:
            for at, series in enumerate(over_time(target["expr"])):
                names.append(named(target["legendFormat"], series["metric"]))
                for t, v in series["values"]:
                    axes.barh(at, 1, left=float(t) - start, color=COLORS["green" if float(v) == 1 else "red"], height=0.8)
        axes.set_yticks(range(len(names))); axes.set_yticklabels([]); axes.set_xlim(0, span)
        for at, name in enumerate(names):
            axes.text(0.2, at, name, fontsize=6, va="center")
    elif kind == "table":
        axes.axis("off")
        rows, columns = {}, []
        names = panel["transformations"][1]["options"]["renameByName"]
        for letter, target in zip("ABCDEFGH", panel["targets"]):
            column = names.get(f"Value #{letter}", target["legendFormat"]); columns.append(column)
            units = {o["matcher"]["options"]: o["properties"][0]["value"] for o in panel["fieldConfig"]["overrides"]}
            for series in ask("query", query=filled(target["expr"]), time=end):
                key = tuple(sorted(series["metric"].items()))
                rows.setdefault(key, {})[column] = shown(float(series["value"][1]), units.get(column, ""))
        if rows:
            cells = [[v for _, v in key] + [row.get(c, "") for c in columns] for key, row in rows.items()]
            table = axes.table(cells, colLabels=[k for k, _ in next(iter(rows))] + columns, loc="upper center")
            table.set_fontsize(7)

folder.mkdir(parents=True, exist_ok=True)
for file in sorted(pathlib.Path(__file__).parent.glob("*.json")):
    panels = [p for p in json.loads(file.read_text())["panels"]]
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    figure = plt.figure(figsize=(18, height * 0.42))
    for panel in panels:
        p = panel["gridPos"]
        place = [p["x"] / 24 + 0.03, 1 - (p["y"] + p["h"]) / height + 0.012, p["w"] / 24 - 0.04, p["h"] / height - 0.026]
        if panel["type"] == "row":
            figure.text(0.01, 1 - (p["y"] + 0.8) / height, panel["title"], fontsize=11, weight="bold")
        else:
            draw(figure.add_axes(place), panel)
    figure.savefig(folder / f"{file.stem}.png", dpi=70)
    plt.close(figure)
    print(folder / f"{file.stem}.png")
