#!/usr/bin/env python3
"""Writes what `cargo bench --bench kernels` measured last as CSV: benches/kernels_table.py TARGET > FILE

TARGET is cargo's folder of that name. Rates are elements per second: floating point operations of products and attention,
values of everything else. The interval is criterion's, of 95 %.
"""

import csv
import json
import sys
from pathlib import Path


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rows = []
    for described in Path(sys.argv[1]).glob("criterion/**/new/benchmark.json"):
        benchmark = json.loads(described.read_text())
        estimates = json.loads(described.with_name("estimates.json").read_text())
        # The slope over numbers of iterations, where criterion could take it.
        time = estimates.get("slope") or estimates["mean"]
        interval = time["confidence_interval"]
        nanoseconds = [time["point_estimate"], interval["lower_bound"], interval["upper_bound"]]
        elements = benchmark["throughput"]["Elements"]
        rows.append([benchmark["full_id"], *(f"{value:.4g}" for value in nanoseconds), f"{elements / nanoseconds[0]:.4g}"])
    if not rows:
        sys.exit(f"{sys.argv[1]} has no results of criterion: run `cargo bench --workspace --bench kernels` first")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["kernel", "ns", "ns, lower", "ns, upper", "10^9 elements per s"])
    writer.writerows(sorted(rows))


if __name__ == "__main__":
    main()
