"""Tables as other tools write them, for the readers of training data.

    python3 make_tables.py FIXTURES

FIXTURES/tables/: the same three rows as rows.parquet (Zstandard, nested columns), rows.arrow (IPC file) and stream.arrow (IPC stream in
batches of two rows), and rows.jsonl, what reading any of them must give.
"""
import datetime
import decimal
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = {
    "text": pa.array(["a", "bé", None]),
    "label": pa.array([0, -1, 1], pa.int64()),
    "small": pa.array([1, 2, 255], pa.uint8()),
    "half": pa.array([1.5, None, -2.0], pa.float16()),
    "single": pa.array([0.5, None, 2.0], pa.float32()),
    "double": pa.array([0.1, 1e300, -0.0]),
    "flag": pa.array([True, False, None]),
    "large": pa.array(["u", "v", ""], pa.large_string()),
    "word": pa.array(["u", "v", "u"]).dictionary_encode(),
    "answers": pa.array([{"text": ["x"], "answer_start": [3]}, {"text": [], "answer_start": []}, None]),
    "messages": pa.array([[{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}], [], None]),
    "lists": pa.array([[[1], [2, 3]], [[]], None]),
    "pair": pa.array([[1, 2], [3, 4], None], pa.list_(pa.int32(), 2)),
    "time": pa.array([datetime.datetime(2020, 1, 1), None, datetime.datetime(1969, 12, 31)], pa.timestamp("ms")),
    "day": pa.array([datetime.date(2020, 1, 1), None, datetime.date(1969, 12, 31)]),
}


def plain(value):
    if isinstance(value, datetime.datetime):
        return round((value - datetime.datetime(1970, 1, 1)).total_seconds() * 1000)
    if isinstance(value, datetime.date):
        return (value - datetime.date(1970, 1, 1)).days
    return value


def main():
    folder = Path(sys.argv[1]) / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(ROWS)
    decimals = table.append_column("money", pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-3.00")]))
    pq.write_table(decimals, folder / "rows.parquet", compression="zstd")
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(folder / "stream.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for row in table.to_pylist():
            file.write(json.dumps({name: plain(value) for name, value in row.items()}, ensure_ascii=False) + "\n")


main()
