#!/usr/bin/env python3
"""Measures how time and memory of a step grow, writes what it measured as CSV, and draws it.

    benches/scale.py ZOFO RANDOM_MODEL MODEL FOLDER [batch|length|threads|directions|size]...

ZOFO is the program, RANDOM_MODEL the example of that name (both from `cargo build --release --workspace --examples --bins`),
and MODEL a model folder or .gguf file. FOLDER gets a CSV file per curve and scale.svg with all curves whose CSV file is
there, so that they can be measured one by one. Needs matplotlib, and for `size` 20 GB of disk at the folder for temporary
files. Every point is a run of `zofo bench` on random tokens: one batch warms up, and the next is measured, or the mean over three
where they are short. Use the machine for nothing else meanwhile.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# What is measured of every point: keys of `zofo bench --json` and what they are called.
TIMES = {"inner_ms": "inner step", "outer_ms": "outer step", "mezo_ms": "MeZO step"}
PEAKS = {"other_peak_rss_mib": "Bilevel-ZOFO", "peak_rss_mib": "MeZO"}

# Llama's shape in other sizes: hidden, MLP, layers, heads. The largest is Llama-2-7B.
SIZES = {
    "30M": (384, 1024, 8, 6),
    "135M": (768, 2048, 13, 12),
    "500M": (1280, 3456, 22, 20),
    "1.3B": (2048, 5504, 24, 32),
    "3B": (2560, 6912, 36, 32),
    "7B": (4096, 11008, 32, 32),
}


def bench(zofo, model, row_tokens, batch_size, only="inner,outer,mezo", **options):
    batches = 3 if row_tokens * batch_size <= 512 else 1
    options |= {"row_tokens": row_tokens, "batch_size": batch_size, "batches": batches, "only": only}
    arguments = [zofo, "bench", "--model", model, "--json"]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    print(" ".join(map(str, arguments)), file=sys.stderr)
    return json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout)


def points_of(curve, zofo, random_model, model):
    """The x of every point, and the report of it."""
    if curve == "batch":
        # Rows of 32 tokens.
        for rows in (1, 2, 4, 8, 16, 32, 64, 128):
            yield 32 * rows, bench(zofo, model, 32, rows)
    elif curve == "length":
        # One row.
        for tokens in (32, 64, 128, 256, 512, 1024, 2048, 4096):
            yield tokens, bench(zofo, model, tokens, 1)
    elif curve == "threads":
        for threads in range(1, len(os.sched_getaffinity(0)) + 1):
            yield threads, bench(zofo, model, 32, 8, threads=threads)
    elif curve == "directions":
        for directions in (1, 2, 4, 8, 16):
            yield directions, bench(zofo, model, 32, 8, only="mezo", directions=directions)
    elif curve == "size":
        for hidden, mlp, layers, heads in SIZES.values():
            config = {
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000,
                "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers,
                "num_attention_heads": heads, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            }
            weights = 2 * 32000 * hidden + layers * (4 * hidden * hidden + 3 * hidden * mlp + 2 * hidden) + hidden
            with tempfile.TemporaryDirectory() as folder:
                described = Path(folder) / "config.json"
                described.write_text(json.dumps(config))
                random = Path(folder) / "model"
                subprocess.run([random_model, described, random, "bf16"], check=True)
                yield weights, bench(zofo, random, 32, 2, dtype="bf16")


# Of every curve: what x is, whether its axis is logarithmic, and what the points have in common.
CURVES = {
    "batch": ("tokens of a batch", True, "rows of 32 tokens"),
    "length": ("tokens of one row", True, "batches of one row"),
    "threads": ("threads", False, "8 rows of 32 tokens"),
    "directions": ("directions in one pass (MeZO)", True, "8 rows of 32 tokens"),
    "size": ("weights", True, "random models in bf16, 2 rows of 32 tokens"),
}


def write(path, points):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        keys = [*TIMES, *PEAKS]
        writer.writerow(["x", *keys])
        for x, report in points:
            # Directions change nothing but MeZO's step: nothing else is measured then.
            writer.writerow([x, *(f"{report[key]:.4g}" if key in report else "" for key in keys)])
            file.flush()


def draw(folder):
    import matplotlib

    matplotlib.use("svg")
    # The same bytes for the same figures; text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "zofo", "svg.fonttype": "none", "font.size": 8})
    import matplotlib.pyplot as plt

    curves = [curve for curve in CURVES if (folder / f"{curve}.csv").exists()]
    figure, axes = plt.subplots(len(curves), 2, figsize=(8, 2.6 * len(curves)), squeeze=False, layout="constrained")
    for (times, memory), curve in zip(axes, curves):
        with (folder / f"{curve}.csv").open() as file:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
        name, logarithmic, common = CURVES[curve]
        x = [row["x"] for row in rows]
        # MeZO has the same colour on both sides.
        colours = ["tab:blue", "tab:orange", "tab:green", "tab:orange", "tab:green"]
        for (key, label), colour in zip([*TIMES.items(), *PEAKS.items()], colours):
            if key in rows[0]:
                axis, scale = (times, 1e-3) if key in TIMES else (memory, 1)
                axis.plot(x, [row[key] * scale for row in rows], marker="o", markersize=3, color=colour, label=label)
        times.set(ylabel="seconds", title=common)
        memory.set(ylabel="MiB", title="peak memory of a process")
        for axis in (times, memory):
            axis.set_xlabel(name)
            axis.grid(alpha=0.3)
            if logarithmic:
                axis.set(xscale="log", yscale="log")
            else:
                axis.set_xticks(x)
                axis.set_ylim(bottom=0)
            axis.legend()
    figure.savefig(folder / "scale.svg", metadata={"Date": None})


def main():
    if len(sys.argv) < 5 or set(sys.argv[5:]) - set(CURVES):
        sys.exit(__doc__)
    zofo, random_model, model, folder = sys.argv[1:5]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for curve in sys.argv[5:] or CURVES:
        write(folder / f"{curve}.csv", points_of(curve, zofo, random_model, model))
    draw(folder)


if __name__ == "__main__":
    main()
