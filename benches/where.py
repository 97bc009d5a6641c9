#!/usr/bin/env python3
"""Says where a step's time goes, by kind of work: a table of shares of the samples that `perf` took on all threads.

    perf record --freq 1000 --delay 1500 --output FILE zofo bench --only inner --batches 40 ...
    perf script --input FILE --fields tid,ip,sym | benches/where.py

The delay leaves out the start of the program. Where a function is inlined it counts with its caller.
"""

import re
import sys
from collections import Counter

# The first kind with a pattern that is found in the name of a function has its samples.
KINDS = [
    ("dot products with weights (x·Wᵀ)", r"flex::dots(?!::lanes::pack)|Fn<A> for &F>::call$"),
    ("packing, rounding and prefetching", r"pack_|lanes::pack|flex::round|flex::weight|Next::prefetch|attention::panels::as_"),
    ("products of packed panels (x·W, attention)", r"flex::gemm|attention::panels"),
    ("directions: z, and w ± εz or the update", r"direction::"),
    ("attention but for products", r"flex::attention|simd::(exp_in_place|max|mask|scale|axpy|dot)"),
    ("norms, rope, activations", r"flex::simd|flex::Activations|flex::new_"),
    ("loss at the head", r"flex::nll"),
    ("products of LoRA", r"gemm_f32|gemm_common"),
    ("Burn's elementwise operations and graph", r"burn_|macerator|cubecl|hashbrown"),
    ("clearing, copying and allocating memory", r"mem(set|move|cpy)|alloc|free|fault|clear_page|unlink_chunk|mmap|unmap|folio|anonymous"),
    ("handing work to the other thread, and waiting", r"sched|rayon|crossbeam|futex|spin|task_switch|syscall|mutex|condvar|irq|msr"),
]


def main():
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    # One sample per line: thread, address, function.
    functions = [match[1] for line in sys.stdin if (match := re.match(r"\s*\d+\s+[0-9a-f]+\s+(.+)", line))]
    if not functions:
        sys.exit(f"no samples on the standard input\n\n{__doc__}")
    kind_of = lambda function: next((kind for kind, pattern in KINDS if re.search(pattern, function)), "everything else")
    kinds = Counter(map(kind_of, functions))
    print("| | share |\n| --- | --- |")
    for kind in [*(kind for kind, _ in KINDS), "everything else"]:
        if kinds[kind]:
            print(f"| {kind} | {kinds[kind] / len(functions):.1%} |")


if __name__ == "__main__":
    main()
