#!/usr/bin/env bash
# Times zofo and PyTorch on the same model and batches, one after the other, and prints the ratios.
#
#     benches/compare.sh MODEL DATA [f32|bf16]...
#
# MODEL is a model folder, a .gguf file or a model of the hub; DATA is a folder with sst2/train.jsonl and
# sst2/validation.jsonl. PyTorch is installed into an environment of its own outside the checkout, ZOFO_TORCH_VENV (default:
# ~/.cache/zofo/torch), unless it is there. ZOFO_BIN names a zofo that is built already. Use the machine for nothing else
# meanwhile. On a processor without bf16 products of its own, PyTorch's bf16 takes many minutes.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
model=$1 data=$2
shift 2
[ $# -gt 0 ] || set -- f32 bf16

benches=$(cd "$(dirname "$0")" && pwd)
venv=${ZOFO_TORCH_VENV:-$HOME/.cache/zofo/torch}
if [ ! -x "$venv/bin/python" ]; then
    echo "installing PyTorch into $venv" >&2
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --requirement "$benches/requirements.txt"
fi
if [ -z "${ZOFO_BIN:-}" ]; then
    (cd "$benches/.." && cargo build --release --locked --bin zofo)
    ZOFO_BIN=$benches/../target/release/zofo
fi

results=$(mktemp -d)
trap 'rm -r "$results"' EXIT
for dtype in "$@"; do
    common=(--model "$model" --data "$data" --dtype "$dtype" --batch-size 8 --batches 7)
    "$ZOFO_BIN" bench "${common[@]}" --json > "$results/zofo-$dtype.json"
    "$venv/bin/python" "$benches/torch_bilevel.py" "${common[@]}" > "$results/torch-$dtype.json"
    "$venv/bin/python" "$benches/torch_bilevel.py" "${common[@]}" --mezo-only > "$results/mezo-$dtype.json"
done

"$venv/bin/python" - "$results" "$@" <<'PYTHON'
import json, sys

folder, *dtypes = sys.argv[1:]
read = lambda name: json.load(open(f"{folder}/{name}.json"))
parts = [
    ("inner step, ms", "inner_ms"), ("outer step, ms", "outer_ms"), ("MeZO step, ms", "mezo_ms"),
    ("forward pass, ms", "forward_ms"), ("evaluation, examples/s", "eval_examples_per_s"),
    ("peak memory of MeZO, MiB", "peak_rss_mib"),
]
for dtype in dtypes:
    zofo = read(f"zofo-{dtype}")
    torch = read(f"torch-{dtype}") | read(f"mezo-{dtype}")
    machine = zofo["machine"]
    print(f"{dtype}, {machine['cpu']}, {machine['threads']} threads, kernels for {machine['kernels']}, torch {torch['torch']}\n")
    print("| | zofo | PyTorch | ratio |\n| --- | --- | --- | --- |")
    for name, key in parts:
        ours, theirs = zofo[key], torch[key]
        ratio = ours / theirs if key.endswith("_per_s") else theirs / ours
        print(f"| {name} | {ours:.4g} | {theirs:.4g} | {ratio:.1f} |")
    share = zofo["forward_gflops"] / zofo["gemm_gflops"]
    print(f"\nforward pass: {share:.0%} of the {zofo['gemm_gflops']:.0f} GFLOP/s of the fastest matrix product; "
          f"directions: {zofo['direction_ns_per_weight']:.2f} ns per weight; start: {zofo['start_ms']:.0f} ms\n")
PYTHON
