"""Writes the Parquet files of this folder with pyarrow, as `datasets` and others write them: python make.py"""

import pyarrow as pa
import pyarrow.parquet as pq

CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def pairs(rows):
    return pa.table({"prompt": [f"prompt {row}\n\"é😀\"" for row in range(rows)], "response": [f"response {row % 3}" for row in range(rows)]})


def chat(rows):
    talk = [[{"role": "user", "content": f"question {row}"}, {"role": "assistant", "content": f"answer {row}"}] for row in range(rows)]
    return pa.table({"messages": pa.array(talk, CHAT)})


pq.write_table(pairs(50), "pairs-snappy.parquet", compression="snappy", row_group_size=20)
pq.write_table(pairs(50), "pairs-gzip-v2.parquet", compression="gzip", data_page_version="2.0", row_group_size=50)
pq.write_table(chat(30), "chat-zstd.parquet", compression="zstd", row_group_size=10)
pq.write_table(pairs(50).cast(pa.schema([("prompt", pa.large_string()), ("response", pa.large_string())])), "pairs-plain.parquet", compression="none", use_dictionary=False, data_page_size=64)
pq.write_table(
    pa.table(
        {
            "prompt": pa.array(["a", None, "c", "d"], pa.string()),
            "response": pa.array([b"x", b"y", b"z", b"\xff"], pa.binary()),
            "score": pa.array([1.5, None, 3.0, float("nan")]),
        }
    ),
    "kinds.parquet",
)
pq.write_table(pa.table({"messages": pa.array([None, [], [None, {"role": "user", "content": None}]], CHAT)}), "empty-chats.parquet")
pq.write_table(pairs(50), "pairs-brotli.parquet", compression="brotli")
pq.write_table(pairs(0), "no-rows.parquet")
pq.write_table(pa.table({"prompt": ["a" * (9 << 20), "b"], "response": ["c", "d"]}), "long.parquet", compression="zstd")
pq.write_table(pa.table({"prompt": ["\0" * (190 << 20)], "response": ["c"]}), "bomb.parquet", compression="zstd", use_dictionary=False)
