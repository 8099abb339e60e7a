"""A minimal writer of uncompressed MDS shards, so that tests need no engine to make their data."""

import json
import struct
from pathlib import Path


def encode(encoding, value):
    if encoding == "str":
        return value.encode()
    if encoding == "json":
        return json.dumps(value).encode()
    if encoding == "ndarray:int32":
        # The first byte: number of dimensions, shifted by two, and the width of each (0: one byte, 1: two).
        shape = struct.pack("<BB", 4, len(value)) if len(value) < 256 else struct.pack("<BH", 5, len(value))
        return shape + struct.pack(f"<{len(value)}i", *value)
    raise ValueError(encoding)


def write(folder, columns, rows):
    """Write one shard and its `index.json`; `columns` maps a name to its encoding."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(columns)
    encodings = [columns[name] for name in names]
    sizes = [None] * len(names)
    samples = []
    for row in rows:
        cells = [encode(columns[name], row[name]) for name in names]
        head = b"".join(struct.pack("<I", len(cell)) for cell in cells)
        samples.append(head + b"".join(cells))
    config = json.dumps(
        {"version": 2, "format": "mds", "compression": None, "hashes": [], "size_limit": 1 << 26,
         "column_names": names, "column_encodings": encodings, "column_sizes": sizes},
        sort_keys=True,
    ).encode()
    base = 4 + 4 * (len(samples) + 1) + len(config)
    offsets = [base]
    for sample in samples:
        offsets.append(offsets[-1] + len(sample))
    shard = struct.pack("<I", len(samples)) + struct.pack(f"<{len(offsets)}I", *offsets) + config
    shard += b"".join(samples)
    name = "shard.00000.mds"
    (folder / name).write_bytes(shard)
    entry = {
        "column_encodings": encodings, "column_names": names, "column_sizes": sizes,
        "compression": None, "format": "mds", "hashes": [], "samples": len(samples),
        "raw_data": {"basename": name, "bytes": len(shard), "hashes": {}},
        "size_limit": 1 << 26, "version": 2, "zip_data": None,
    }
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": [entry]}, sort_keys=True))
