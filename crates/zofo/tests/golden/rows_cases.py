"""Parquet files as pyarrow writes them, and the rows that are to be read from them.

    pip install pyarrow==26.0.1
    python rows_cases.py
"""

import datetime
import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

OUT = Path(__file__).parent / "rows"

ROWS = [
    {
        "id": f"row-{n}",
        "question": ["Who?", "Où ça ?", "", "何時?", None][n % 5],
        "answers": {"text": [f"answer {n}.{k}" for k in range(n % 3)], "answer_start": list(range(n % 3))},
        "label": n % 2,
        "unsigned": 2**63 + n,
        "score": n / 4 if n != 3 else None,
        "flag": n % 3 == 0,
        "turns": [{"from": "human", "value": f"q{n}"}, {"from": "gpt", "value": None}][: n % 3],
        "nested": [[n], [], [n, n + 1]] if n != 2 else None,
        "large": "x" * n,
    }
    for n in range(7)
]

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("answers", pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])),
        ("label", pa.int64()),
        ("unsigned", pa.uint64()),
        ("score", pa.float64()),
        ("flag", pa.bool_()),
        ("turns", pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))),
        ("nested", pa.list_(pa.list_(pa.int16()))),
        ("large", pa.large_string()),
        # What no task can use is left out.
        ("day", pa.date32()),
        ("moment", pa.timestamp("ns")),
        ("price", pa.decimal128(9, 2)),
        ("image", pa.struct([("bytes", pa.binary()), ("when", pa.time64("ns"))])),
    ]
)

CONVERSATIONS = [
    [("system", "Be brief."), ("user", "Wo?"), ("assistant", "Là-bas.")],
    [("user", "1 + 1?"), ("assistant", "2"), ("user", "Sure?"), ("assistant", "Yes.")],
]


def main():
    OUT.mkdir(exist_ok=True)
    unused = {
        "day": datetime.date(2024, 2, 29),
        "moment": datetime.datetime(2024, 2, 29, 1, 2, 3),
        "price": decimal.Decimal("12.34"),
        "image": {"bytes": b"\xff\xd8", "when": None},
    }
    table = pa.Table.from_pylist([row | unused for row in ROWS], schema=SCHEMA)
    for codec in ["none", "snappy", "gzip", "zstd"]:
        pq.write_table(table, OUT / f"{codec}.parquet", compression=codec, row_group_size=3)
    pq.write_table(table.slice(0, 0), OUT / "empty.parquet")
    messages = [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in CONVERSATIONS]
    pq.write_table(pa.Table.from_pylist(messages), OUT / "conversations.parquet")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS]
    (OUT / "expected.jsonl").write_text("".join(lines), encoding="utf-8")


main()
