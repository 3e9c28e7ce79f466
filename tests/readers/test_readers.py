"""Every reader reads what is right, and refuses all else in one line: it neither hangs nor fails otherwise."""

import io
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from pirl_core.errors import UserError
from pirl_core.readers import archives, arrays, pictures, tables, tensors, text
from pirl_core.readers.strict_yaml import read_yaml

REMEDY = "make it again"
COLUMNS = {"n": tables.WHOLE, "x": tables.NUMBER, "s": tables.TEXT, "b": tables.TRUTH, "v": tables.VECTOR}
READERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: text.read_text(path, REMEDY),
    "json": lambda path: text.read_json(path, REMEDY),
    "jsonl": lambda path: text.read_json_lines(path, REMEDY),
    "yaml": read_yaml,
    "safetensors": lambda path: tensors.read_tensors(path, REMEDY),
    "parquet": lambda path: tables.read_table(path, REMEDY, COLUMNS),
    "npz": lambda path: archives.read_arrays(path, REMEDY),
    "rows": lambda path: read_all(path),
    "hdf5": lambda path: read_all(path),
}


def read_all(path: Path) -> list[np.ndarray]:
    with arrays.open_arrays(path, REMEDY) as found:
        return [arrays.read_rows(path, name, rows, 0, rows.shape[0]) for name, rows in found.below().items()]


Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(-1e100, 1e100) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def sound(folder: Path) -> dict[str, Path]:
    """A good file of each kind."""
    paths = {kind: folder / f"sound.{kind}" for kind in READERS}
    paths["text"].write_text("größer\n")
    paths["json"].write_text('{"a": [1, 2.5, null], "b": {"c": "d"}}')
    paths["jsonl"].write_text('{"step": 1}\n\n{"step": 2}\n')
    paths["yaml"].write_text("a: 1e-4\nb: {c: [1, x]}\n")
    save_file({"w": torch.arange(6.0).reshape(2, 3), "h": torch.ones(2, dtype=torch.bfloat16)}, paths["safetensors"])
    pq.write_table(table(), paths["parquet"])
    np.savez(paths["npz"], steps=np.arange(3), reward=np.ones((2, 2)))
    with paths["rows"].open("wb") as file:
        np.savez_compressed(file, steps=np.arange(3), reward=np.ones((2, 2)))
    with h5py.File(paths["hdf5"], "w") as content:
        content["steps"] = np.arange(3)
        content.create_dataset("group/reward", data=np.ones((2, 2)), compression="gzip")
    return paths


def table(rows: int = 4) -> pa.Table:
    return pa.table(
        {
            "n": pa.array(range(rows), pa.uint32()),
            "x": pa.array([0.5] * rows, pa.float32()),
            "s": pa.array(["task"] * rows).dictionary_encode(),
            "b": [True] * rows,
            "v": pa.array([[1.0, 2.0]] * rows, pa.list_(pa.float32(), 2)),
        }
    )


def refused(kind: str, path: Path, words: str = "") -> None:
    with pytest.raises(UserError) as caught:
        READERS[kind](path)
    said = str(caught.value)
    assert "\n" not in said and path.name in said, said
    assert re.search(words, said), said


@pytest.mark.parametrize("kind", READERS)
def test_a_reader_opens_regular_files_alone(kind: str, tmp_path: Path) -> None:
    """A pipe or a device in a file's place blocks nothing, though nobody writes to it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name, words in (
        ("pipe", "no regular file"),
        ("folder", "a folder"),
        ("loop", "symbolic links"),
        ("absent", "no such file"),
        ("n" * 300, "name too long"),
    ):
        refused(kind, tmp_path / name, words)
    refused(kind, Path("/dev/zero"), "no regular file")


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused_in_one_line(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Flipped, cut, doubled and inserted bytes: a value or a UserError, nothing else."""
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    content = bytearray(sound(path.parent)[kind].read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(content) - 1)))
        change = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if change == "cut":
            del content[place:]
        elif change == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        elif content:
            content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    said = ""
    try:
        READERS[kind](path)
    except UserError as error:
        said = str(error)
    assert "\n" not in said


def test_every_damaged_bit_of_a_table_s_metadata_is_read_or_refused(tmp_path: Path) -> None:
    """Arrow ends the process at some of them, unless it is asked in the right order."""
    path = sound(tmp_path)["parquet"]
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    for place in range(len(content) - 8 - length, len(content) - 8):
        for bit in (1, 2, 4, 16):
            damaged = bytearray(content)
            damaged[place] ^= bit
            path.write_bytes(damaged)
            said = ""
            try:
                READERS["parquet"](path)
                tables.column_ranges(path, REMEDY, "n")
            except UserError as error:
                said = str(error)
            assert "\n" not in said


@given(Json)
@settings(max_examples=100, deadline=None)
def test_sound_json_is_what_the_standard_library_reads(value: Any) -> None:
    assert text.parse_json(json.dumps(value), "here", REMEDY) == value
    assert text.parse_json(json.dumps(value, ensure_ascii=False), "here", REMEDY) == value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nested deeper than 64 levels"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested deeper than 64 levels"),
        ("[NaN]", "number NaN is beyond"),
        ("[-Infinity]", "number -Infinity is beyond"),
        ("[1e999]", "number 1e999 is beyond"),
        ("[1e101]", "number 1e101 is beyond"),
        ("[9223372036854775808]", "more than 64 bits"),
        ("[" + "9" * 10_000 + "]", "more than 64 bits"),
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        (r'["\ud800"]', "surrogates not allowed"),
        ("", "Expecting value"),
    ],
)
def test_json_has_limits(content: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^here: no valid JSON .*{words}.*; {REMEDY}$"):
        text.parse_json(content, "here", REMEDY)
    assert text.parse_json("[" * 64 + "]" * 64, "here", REMEDY)


@pytest.mark.parametrize("kind", ["text", "json", "jsonl", "yaml"])
def test_text_is_utf_8_of_a_bounded_size(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes("{é: 1}".encode("latin-1"))
    refused(kind, path, "byte 1 is not UTF-8 text")
    with path.open("wb") as file:
        file.truncate(10 * 2**30)
    refused(kind, path, "more than [0-9,]+ bytes")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: &x {b: *x}\n", "nested deeper than 64 levels"),
        ("a: &x [*x, *x]\n", "more than 100,000 values"),
        (
            "a: &a [x]\n" + "".join(f"{q}: &{q} [{f'*{p},' * 9}]\n" for p, q in zip("abcdefghi", "bcdefghij")),
            "more than",
        ),
        ("a: !!set {b}\n", r"line 1: a tag \(tag:yaml.org,2002:set\); leave it out"),
        ("a: !!timestamp x\n", "line 1: a tag"),
        ("a: !!python/name:os.system\n", "line 1: a tag"),
        ("a: !own b\n", "line 1: a tag"),
        ("a: " + "[" * 100 + "]" * 100, "nested deeper than 64 levels"),
        ("a: " + "[" * 500_000, "not valid YAML"),
        ("a: 99999999999999999999\n", "line 1: a number of more than 64 bits"),
        ("a: 2001-13-45\n", "not valid YAML"),
        ('a: "\\ud800"\n', "surrogates not allowed"),
    ],
)
def test_yaml_has_limits(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "it").write_text(content)
    refused("yaml", tmp_path / "it", words)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("a: 1\nrl:\n  b: 2\n  actor_lr:1e-5\n  c: 3\n", 4, "no space after the colon; write `actor_lr: 1e-5`"),
        ("actor_lr:1e-5  # small\n\nb: 1\n", 1, "no space after the colon; write `actor_lr: 1e-5`"),
        ("rl:\n  b: 1\n  actor_lr:1e-5\n\nd: 2\n", 3, "no space after the colon"),
        ("rl:\n  actor_lr:1e-5\n", 2, "no space after the colon"),
        ("rl: {actor_lr:1e-5, b: 2}\n", 1, "no space after the colon"),
        ("tasks:\n  - a\n  -b\n  - c\n", 3, "no space after the dash; write `- b`"),
        ("tasks:\n  -b\n", 2, "no space after the dash"),
        ("rl:\n  b: 2\n  actor_lr = 1e-5\n  c: 1\n", 3, "'=' instead of a colon; write `actor_lr: 1e-5`"),
        ("report:\n  title: It's mine: first\n", 2, "a colon in the text; write `title: 'It''s mine: first'`"),
        ("rl:\n\tb: 1\n", 2, "a tab; put spaces in its place"),
        ("rl:\n  a:\t1\n", 2, "a tab; put spaces in its place"),
        ("rl:\n  b: 1\n   c: 2\n", 3, "does not go with the line before it; mind the indentation"),
        ("rl:\n  b: 1\n c: 2\n", 3, "not indented as the lines before it"),
        ('a: "x\nb: 2\n', 1, "what begins here has no end; close its quotes"),
        ("a: @x\n", 1, "put the value in quotes"),
        ("a: *x\n", 1, "put the value in quotes"),
    ],
)
def test_a_slip_in_yaml_is_told_where_it_stands(content: str, line: int, words: str, tmp_path: Path) -> None:
    (tmp_path / "it").write_text(content)
    refused("yaml", tmp_path / "it", re.escape(f"it line {line}: ") + ".*" + re.escape(words))


def test_texts_with_colons_are_texts(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("a: http://x:80/y\nb: [c:1, -d]\ne: >\n  f:g\nh: i:j\nk: -l\nm: n=o\n")
    assert read_yaml(tmp_path / "it") == {
        "a": "http://x:80/y", "b": ["c:1", "-d"], "e": "f:g\n", "h": "i:j", "k": "-l", "m": "n=o",
    }  # fmt: skip


def test_yaml_may_share_values(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("a: &x [1e-4]\nb: *x\n")
    assert read_yaml(tmp_path / "it") == {"a": [1e-4], "b": [1e-4]}


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "U16", "F6_E2M3", "X"])
def test_odd_kinds_of_numbers_in_safetensors_are_refused(dtype: str, tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": dtype, "shape": [8], "data_offsets": [0, 64 if dtype == "C64" else 8]}})
    (tmp_path / "it").write_bytes(struct.pack("<Q", len(header)) + header.encode() + b"\0" * 64)
    refused("safetensors", tmp_path / "it")


def test_tensors_come_as_they_were_saved(tmp_path: Path) -> None:
    wanted = {str(kind): torch.ones(2, 3).to(kind) for kind in (torch.float16, torch.bfloat16, torch.int64, torch.bool)}
    save_file(wanted, tmp_path / "it")
    found = tensors.read_tensors(tmp_path / "it", REMEDY)
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert tensors.tensor_shapes(tmp_path / "it", REMEDY) == dict.fromkeys(wanted, (2, 3))


def test_columns_come_in_their_kinds(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "it")
    found = tables.read_table(tmp_path / "it", REMEDY, COLUMNS)
    assert found.column_names == list(COLUMNS) and found["n"].type == pa.int64() and found["s"].type == pa.string()
    assert found.to_pylist() == table().to_pylist()


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("n", pa.array([0.0] * 4), "must hold a whole number, and holds double"),
        ("n", pa.array([2**63] * 4, pa.uint64()), "column 'n'"),
        ("n", pa.array([0, 1, 2, None]), "no value in 1 rows"),
        ("x", pa.array([0.0, 1.0, 2.0, float("nan")]), "not finite"),
        ("x", pa.array([0.0, 1.0, 2.0, 1e200]), "not finite, or beyond"),
        ("x", pa.array(["0"] * 4), "must hold a number, and holds string"),
        ("s", pa.array([b"x"] * 4), "must hold text, and holds binary"),
        ("s", pa.array([{"a": 1}] * 4), "must hold text, and holds struct"),
        ("b", pa.array([0, 1, 0, 1]), "must hold true or false"),
        ("v", pa.array([["x"]] * 4), "must hold numbers, and holds list"),
        ("v", pa.array([[[1.0]]] * 4), "must hold numbers, and holds list"),
    ],
)
def test_foreign_columns_are_refused(name: str, values: pa.Array, words: str, tmp_path: Path) -> None:
    whole = table()
    pq.write_table(whole.set_column(whole.column_names.index(name), name, values), tmp_path / "it")
    refused("parquet", tmp_path / "it", words)
    pq.write_table(whole.drop([name]), tmp_path / "it")
    refused("parquet", tmp_path / "it", f"column '{name}' is missing")
    pq.write_table(whole.append_column(name, whole[name]), tmp_path / "it")
    refused("parquet", tmp_path / "it", f"column '{name}' is twice there")


def test_a_table_that_claims_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal values are stored once: a small file may hold any number of rows."""
    monkeypatch.setattr(tables, "MOST_VALUES", 10**6)
    pq.write_table(table(10**6), tmp_path / "it")
    assert (tmp_path / "it").stat().st_size < 10 * 2**20
    refused("parquet", tmp_path / "it", "it says that it holds 1,000,000 rows")


def encoded(picture: Image.Image, kind: str) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_pictures_are_decoded(kind: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8))
    found = np.asarray(pictures.decode_picture(encoded(picture, kind)).convert("RGB"))
    assert found.shape == (8, 12, 3)
    assert kind != "PNG" or np.array_equal(found, np.asarray(picture))


@pytest.mark.parametrize("size", [(5000, 5000), (10_000, 20_000)])
def test_bombs_are_not_unpacked(size: tuple[int, int], recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(ValueError, match=r"^no readable picture: .*pixels"):
        pictures.decode_picture(encoded(Image.new("1", size), "PNG"))
    assert not recwarn.list


@given(st.binary(max_size=40), st.integers(0, 400), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_damaged_pictures_are_decoded_or_refused(inserted: bytes, place: int, cut: int) -> None:
    content = encoded(Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)), "PNG")
    for damaged in (inserted, content[:place] + inserted + content[place + cut :]):
        said = "no readable picture: "
        try:
            pictures.decode_picture(damaged)
        except ValueError as error:
            said = str(error)
        assert said.startswith("no readable picture: ") and "\n" not in said


def test_archives_stay_in_their_folder_and_in_bounds(tmp_path: Path) -> None:
    path = tmp_path / "it"

    def read(path: Path) -> list[str]:
        with archives.open_archive(path, REMEDY, 10**6) as archive:
            return archive.namelist()

    for name, size, words in (("a", 10, ""), ("a", 10**6 + 1, "unpack to more"), ("/a", 1, "outside"),
                              ("b/../../a", 1, "outside")):  # fmt: skip
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, b"\0" * size)
        if words:
            with pytest.raises(UserError, match=words):
                read(path)
        else:
            assert read(path) == ["a"]


def test_arrays_are_never_pickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "it.npz", it=np.array([{}], object))
    refused("npz", tmp_path / "it.npz", "no arrays of numpy")
