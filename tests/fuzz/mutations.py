"""Ways in which a file can be wrong, drawn from a seeded stream: its bytes, its values, or something else there."""

import io
import json
import os
import random
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

MARK = "mark-of-the-fuzz"
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e18, 1e300, 5e-324, 2**31, 2**53 + 1, 2**62, 10**12, "", " ", "x", "0",
    "nan", "../../../etc/passwd", "/dev/zero", "a/b", "{episode_index:0999999999d}", "{0.__class__}", "é☃😀", "a\nb",
    "\x00", "\x1b[2J", "x" * 5000, [], [[]], [None], [0], [1e300], [1, "x"], {}, {"": 0}, {"a": {"b": []}},
    [[1.0] * 3] * 3,
]  # fmt: skip
JSON_TEXTS = [
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 30, "9" * 5000, "[" * 70 + "]" * 70, "[" * 10**5,
    "[" * 10**5 + "]" * 10**5, '{"a":' * 500 + "1" + "}" * 500, r'"\ud800"', r'"\u0000"', '{"a": 1, "a": 2}', "tru", "",
]  # fmt: skip
YAML_TEXTS = [
    ".nan", ".inf", "-.inf", "!!set {a, b}", "!!binary aGk=", "!!timestamp x", "!!python/object/apply:os.getcwd []",
    "!!int x", "!own 1", "&x [*x]", "&x {y: *x}", "*nowhere", "2001-01-01", "2001-99-99", "1:30:00",
    "0x7fffffffffffffff",
    "0b1", "1_000", "1e400", "9" * 30, "9" * 5000, "[" * 100 + "]" * 100, "[" * 50_000, "{? [a] : b}", "{1: 2}", "'",
    "\t", "@", "%", "<<: 1", "{<<: {a: 1}}", "=", "~", "yes", "\"\\ud800\"", "\"\\0\"", "| \n  x",
    "[&a [x,x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b,*b,*b], "
    "&d [*c,*c,*c,*c,*c,*c,*c,*c,*c], &e [*d,*d,*d,*d,*d,*d,*d,*d,*d], &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]]",
]  # fmt: skip


def mutate(path: Path, draw: random.Random) -> str:
    """Spoil the file; returns in which way."""
    structured = {
        ".json": damaged_json, ".jsonl": damaged_lines, ".yaml": damaged_yaml, ".parquet": damaged_table,
        ".safetensors": damaged_tensors, ".gif": damaged_bytes, ".mp4": damaged_bytes,
    }.get(path.suffix, damaged_bytes)  # fmt: skip
    structured = structured if path.stat().st_size else damaged_bytes
    way: Callable[[Path, random.Random], str] = draw.choices([structured, damaged_bytes, replaced], [7, 2, 1])[0]
    return f"{path}: {way(path, draw)}"


def replaced(path: Path, draw: random.Random) -> str:
    """Something else under its name."""
    path.unlink()
    kind = draw.choice(["nothing", "folder", "pipe", "loop", "device", "endless", "sparse", "empty"])
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "endless":
        path.symlink_to("/dev/stdin")
    elif kind in ("sparse", "empty"):
        path.touch()
        os.truncate(path, 2**36 if kind == "sparse" else 0)
    return kind


def damaged_bytes(path: Path, draw: random.Random) -> str:
    content = bytearray(path.read_bytes())
    kind = draw.choice(["flip", "flip", "cut", "insert", "double", "latin-1", "utf-16", "bom", "zeros"])
    at = draw.randrange(max(1, len(content)))
    if kind == "flip":
        for _ in range(draw.choice([1, 1, 8, 100])):
            if content:
                content[draw.randrange(len(content))] = draw.randrange(256)
    elif kind == "cut":
        del content[at:]
    elif kind == "insert":
        content[at:at] = draw.randbytes(draw.choice([1, 4, 64]))
    elif kind == "double":
        content += bytes(content)
    elif kind == "zeros":
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    else:
        text = content.decode("latin-1")
        content = bytearray(
            (text + "é").encode("latin-1") if kind == "latin-1" else text.encode(kind.replace("bom", "utf-8-sig"))
        )
    path.write_bytes(content)
    return kind


def damaged_value(content: Any, draw: random.Random) -> str:
    """Change, drop, rename, wrap or mark one value somewhere inside, in place."""
    places = [(content, key) for key in _keys(content)]
    node, key = draw.choice(places)
    while draw.random() < 0.8 and _keys(node[key]):
        node, key = node[key], draw.choice(_keys(node[key]))
    kind = draw.choice(["value", "value", "value", "mark", "drop", "rename", "wrap", "scale"])
    if kind == "value":
        node[key] = draw.choice(VALUES)
    elif kind == "mark":
        node[key] = MARK
    elif kind == "drop":
        del node[key]
    elif kind == "rename" and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    elif kind == "wrap":
        node[key] = draw.choice([[node[key]], {"a": node[key]}, str(node[key]), [node[key]] * 2])
    elif isinstance(node[key], int | float) and not isinstance(node[key], bool):
        node[key] *= draw.choice([-1, 10, 10**6, 0.5])
    return f"{kind} at {key!r:.40}"


def _keys(node: Any) -> list[Any]:
    return list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []


def damaged_json(path: Path, draw: random.Random) -> str:
    text, said = _damaged(path.read_text(), draw)
    path.write_text(text, errors="surrogatepass")
    return said


def damaged_lines(path: Path, draw: random.Random) -> str:
    lines = path.read_text().splitlines()
    at = draw.randrange(len(lines))
    lines[at], said = _damaged(lines[at], draw)
    path.write_text("\n".join(lines) + "\n", errors="surrogatepass")
    return f"line {at + 1}: {said}"


def _damaged(text: str, draw: random.Random) -> tuple[str, str]:
    content = json.loads(text)
    if draw.random() < 0.1 or not _keys(content):
        return draw.choice([*JSON_TEXTS, "[]", "3", '"x"', "null", "{}"]), "another value"
    said = damaged_value(content, draw)
    other = draw.choice(JSON_TEXTS)
    text = json.dumps(content, allow_nan=True)
    return text.replace(f'"{MARK}"', other), said + (f" {other:.20}" if MARK in text else "")


def damaged_yaml(path: Path, draw: random.Random) -> str:
    content = yaml.safe_load(path.read_text())
    said = [damaged_value(content, draw) for _ in range(draw.choice([1, 1, 1, 2]))]
    other = draw.choice(YAML_TEXTS)
    text = yaml.safe_dump(content, allow_unicode=True, width=10**6)
    path.write_text(text.replace(MARK, other), errors="surrogatepass")
    return "; ".join(said) + (f" {other:.30}" if MARK in text else "")


def damaged_table(path: Path, draw: random.Random) -> str:
    table = pq.read_table(path)
    at = draw.randrange(table.num_columns)
    name, column = table.column_names[at], table.column(at).combine_chunks()
    count = len(table)
    pictures = pa.types.is_struct(column.type)
    kind = draw.choice(["drop", "type", "type", "null", "twice", "rows", "none", "value", "many", "metadata"])
    if kind == "drop":
        table = table.drop([name])
    elif kind == "twice":
        table = table.append_column(name, column)
    elif kind == "none":
        table = table.slice(0, 0)
    elif kind == "rows":
        table = table.take([draw.randrange(count) for _ in range(draw.choice([1, count, 2 * count]))])
    elif kind == "many" and not pictures:
        table = table.take(pa.array(np.zeros(draw.choice([10**5, 3 * 10**5]), np.int64))).drop(
            [c for c in table.column_names if pa.types.is_struct(table.schema.field(c).type)]
        )
    elif kind == "metadata":
        table = table.replace_schema_metadata(
            {draw.choice([b"pandas", b"huggingface"]): draw.choice([b"{", b"[" * 10**5])}
        )
    elif pictures or kind == "null":
        values = column.to_pylist()
        values[draw.randrange(count)] = draw.choice(_pictures()) if pictures and kind != "null" else None
        # An array of a type of its own: the file's may say that nothing is null.
        table = table.set_column(at, name, pa.array(values))
    else:
        table = table.set_column(at, name, _column(column, draw))
    pq.write_table(table, path, compression="none", use_dictionary=False)
    return f"{kind} of {name}"


def _column(column: pa.Array, draw: random.Random) -> pa.Array:
    """Values of another type, or of the same that are out of place."""
    count = len(column)
    wild = [float("nan"), float("inf"), 1e308, -1e308, -1.0, 1e18, 0.3]
    return draw.choice(
        [
            pa.array([draw.choice(wild) for _ in range(count)]),
            pa.array([2**63 + 1] * count, pa.uint64()), pa.array([-(2**63)] * count), pa.array([2**40] * count),
            pa.array(["x"] * count), pa.array(["x" * 10_000] * count), pa.array([b"\xff\x00"] * count),
            pa.array([True] * count), pa.array([None] * count, pa.null()), pa.array([{"a": {"b": 1}}] * count),
            pa.array([[[1.0]]] * count), pa.array([[]] * count, pa.list_(pa.float32())), pa.array([[1e38] * 4] * count),
            pa.array([[float("nan")] * 4] * count, pa.list_(pa.float32())),
            pa.array([[None] * 4] * count, pa.list_(pa.float32())),
            pa.array([0] * count, pa.timestamp("ns", "Europe/Berlin")), pa.array([1] * count, pa.decimal128(38)),
            pa.array([0] * count, pa.duration("us")), pa.array([[("k", 1)]] * count, pa.map_(pa.string(), pa.int8())),
            pa.array(["x"] * count).dictionary_encode(), column.take(pa.array(list(reversed(range(count))))),
        ]
    )  # fmt: skip


@cache
def _pictures() -> list[dict[str, Any]]:
    def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
        content = io.BytesIO()
        picture.save(content, kind)
        return content.getvalue()

    good = encoded(Image.new("RGB", (32, 32)))
    header = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    )
    found = [
        None, b"", b"\x89PNG", good[:40], good[:-8], header, b"%!PS-Adobe-3.0 EPSF\n", b"<svg/>",
        b"GIF89a" + b"\xff" * 9,
        encoded(Image.new("1", (6000, 6000))), encoded(Image.new("1", (30_000, 30_000))),
        encoded(Image.new("L", (32, 32))), encoded(Image.new("RGBA", (32, 32))), encoded(Image.new("I;16", (32, 32))),
        encoded(Image.new("CMYK", (32, 32)), "JPEG"), encoded(Image.new("P", (32, 32)), "GIF"),
        encoded(Image.new("F", (32, 32)), "TIFF"), encoded(Image.new("RGB", (1, 1))),
        encoded(Image.new("RGB", (33, 31))),
    ]  # fmt: skip
    return [{"bytes": content, "path": path} for content in found for path in (None, "/etc/passwd")]


def damaged_tensors(path: Path, draw: random.Random) -> str:
    """The header's JSON, or the numbers."""
    content = path.read_bytes()
    length = int(struct.unpack_from("<Q", content)[0])
    header, numbers = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    kind = draw.choice(["dtype", "shape", "numbers", "json", "json", "length"])
    key = draw.choice([key for key in header if key != "__metadata__"])
    text = ""
    if kind == "dtype":
        header[key]["dtype"] = draw.choice(
            ["F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "U16", "X"]
        )
        sizes = {"F64": 8, "I64": 8, "C64": 8, "F16": 2, "BF16": 2, "U16": 2, "I32": 4}
        items = (header[key]["data_offsets"][1] - header[key]["data_offsets"][0]) // sizes.get(header[key]["dtype"], 1)
        header[key]["shape"] = draw.choice([header[key]["shape"], [items]])
    elif kind == "shape":
        header[key]["shape"] = draw.choice(
            [[], [1], [0], [2**40, 2**40], list(reversed(header[key]["shape"])), [-1], [1] * 99]
        )
    elif kind == "numbers":
        begin, end = header[key]["data_offsets"]
        fill = struct.pack("<f", draw.choice([float("nan"), float("inf"), 3e38, -1.0, 0.0]))
        numbers[begin:end] = (fill * (end - begin))[: end - begin]
    elif kind == "json":
        text, _ = _damaged(json.dumps(header), draw)
    encoded = (text or json.dumps(header)).encode(errors="surrogatepass")
    size = draw.choice([0, 7, 2**32, 2**63, 2**64 - 1]) if kind == "length" else len(encoded)
    path.write_bytes(struct.pack("<Q", size) + encoded + numbers)
    return f"{kind} of {key}"
