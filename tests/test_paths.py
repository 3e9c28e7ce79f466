"""Paths in other people's files: what they may say, and that nothing leads out of their folder."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pirl_core.readers.paths import bare, fill, inside

VALUES: dict[str, int | str] = {"episode_chunk": 12, "episode_index": 1234567, "video_key": "observation.images.top"}
FIELDS = [
    f"{{{name}{spec}}}"
    for name, value in VALUES.items()
    for spec in ("", *([":03d", ":6d", ":09d"] if isinstance(value, int) else []))
]
TRICKS = [
    "{episode_index:0999999999d}", "{episode_index:999999999}", "{episode_index:010d}", "{episode_index:06x}",
    "{video_key:9}", "{video_key:06d}", "{video_key:{episode_index}}", "{episode_index.__class__}", "{video_key[0]}",
    "{video_key!r}", "{episode_index!s:06d}", "{}", "{0}", "{other}", "{", "}", "{episode_index:,}",
    "{episode_index:.999999999f}", "{episode_index:\u0660\u0666d}",
]  # fmt: skip


@given(st.lists(st.sampled_from(FIELDS) | st.text(alphabet="ab/._-é ", max_size=4)))
def test_lerobots_templates_are_filled_as_python_fills_them(parts: list[str]) -> None:
    template = "".join(parts)
    assert fill(template, VALUES) == template.format(**VALUES)


@given(st.lists(st.sampled_from([*FIELDS, "{", "}", ":", "0", "9", "d", ".", "!r", "[0]", "episode_index"])))
def test_whatever_a_template_says_its_text_is_short(parts: list[str]) -> None:
    template = "".join(parts)
    try:
        text = fill(template, VALUES)
    except ValueError:
        return
    assert len(text) <= len(template) + template.count("{") * 22


@pytest.mark.parametrize("template", TRICKS)
def test_tricks_of_the_format_language_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        fill(f"data/{template}.parquet", VALUES)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """home/{a,a/b} with links within, out and in a circle, beside a file that is nobody's business."""
    root = tmp_path_factory.mktemp("tree")
    (root / "home/a/b").mkdir(parents=True)
    (root / "homework").write_text("secret")
    (root / "home/a/file").write_text("own")
    (root / "home/out").symlink_to("../homework")
    (root / "home/up").symlink_to("..")
    (root / "home/a/in").symlink_to("../a/b")
    (root / "home/a/round").symlink_to("round")
    (root / "alias").symlink_to("home")
    return root


PARTS = st.sampled_from(["..", ".", "a", "b", "file", "in", "out", "up", "home", "homework", "alias", "new", ""])


@given(parts=st.lists(PARTS, max_size=7), absolute=st.booleans(), by_link=st.booleans())
def test_a_path_is_followed_only_where_it_ends_inside(
    tree: Path, parts: list[str], absolute: bool, by_link: bool
) -> None:
    """``realpath`` is the judge: of the operating system's links it is the library's own account."""
    folder, name = tree / ("alias" if by_link else "home"), "/".join(parts)
    name = f"{tree}/{name}" if absolute else name
    ends = os.path.realpath(folder / name)
    if ends.startswith(os.path.realpath(folder) + os.sep):
        assert inside(folder, name) == folder / name
    else:
        with pytest.raises(ValueError, match="leaves its folder"):
            inside(folder, name)


@given(st.sampled_from(["..", ".", "", "a/b", "a/", "/a", "./a", "x" * 256, "é" * 128, None, 3]) | st.text(max_size=6))
def test_a_bare_name_is_an_entry_of_its_folder(name: object) -> None:
    """As ``split`` and the file system's 255 bytes have it."""
    entry = isinstance(name, str) and os.path.split(name) == ("", name) and name not in ("", ".", "..")
    if entry and isinstance(name, str) and len(name.encode()) < 256:
        assert bare(name) == name
    else:
        with pytest.raises(ValueError, match="no plain name of a file"):
            bare(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a/round/x", "a\0b", "\ud800", None, 3, ["a"]])
def test_what_is_no_path_is_a_value_error(tree: Path, name: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        inside(tree / "home", name)  # type: ignore[arg-type]


def test_a_snapshot_of_the_hub_is_links_into_its_blobs_and_no_further(tmp_path: Path) -> None:
    repo = tmp_path / "datasets--someone--data"
    snapshot = repo / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs/1").write_text("x")
    (repo / "refs").write_text("x")
    (snapshot / "file").symlink_to("../../blobs/1")
    (snapshot / "other").symlink_to("../../refs")
    assert inside(snapshot, "file").read_text() == "x"
    for name in ("other", "../../refs", "../../../elsewhere"):
        with pytest.raises(ValueError, match="leaves its folder"):
            inside(snapshot, name)
