"""Assets from servers on localhost: whole and checked, or one line and nothing; a broken download goes on."""

import errno
import hashlib
import io
import re
import subprocess
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

from pirl_core.envs import assets
from pirl_core.envs.assets import Archive, Assets, Commit, Dataset, Part
from pirl_core.errors import UserError
from tests.checkpoints.fake_hub import REPO, Hub, serve

CLOSED = "http://127.0.0.1:9/a.zip"  # the port of "discard", where nobody listens


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("widget-1.0/urdf/arm.urdf", "<robot/>")
        file.writestr("widget-1.0/mesh.bin", bytes(range(256)) * 8000)
    return content.getvalue()


class Server:
    """Serves one archive; ``cut`` answers break off after half of what was asked for."""

    def __init__(self) -> None:
        self.content = archive()
        self.starts: list[int] = []
        self.cut = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or ["", "0"])[1])
                server.starts.append(start)
                part = server.content[start:]
                if not part:
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                server.cut -= 1
                self.wfile.write(part[: len(part) // 2] if server.cut >= 0 else part)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/widget.zip"
        Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    made.commit({"carrot/model.safetensors": b"large" * 999, "carrot/list.json": b"{}", "other/big.bin": b"no"})
    with serve(made):
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for one in assets.ASSETS.values():
        monkeypatch.delenv(one.variable, raising=False)
    return tmp_path / "pirl"


def use(monkeypatch: pytest.MonkeyPatch, *parts: Part) -> None:
    monkeypatch.setitem(assets.ASSETS, "calvin", Assets("PIRL_CALVIN_ENV", parts, "MIT"))


def widget(server: Server, sha256: str = "", listing: str = "") -> Part:
    source = Commit(server.url, listing) if listing else Archive(server.url, sha256)
    return Part("arm", source, ("urdf/arm.urdf",))


def listing(files: dict[str, bytes], folder: Path) -> str:
    """What git itself numbers the files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    names = sorted(files)
    told = subprocess.run(["git", "hash-object", *names], cwd=folder, capture_output=True, text=True, check=True)
    lines = [f"{number} {name}\n" for number, name in zip(told.stdout.split(), names, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.fixture
def of_commit(tmp_path: Path) -> str:
    """The listing of the server's archive."""
    return listing({"urdf/arm.urdf": b"<robot/>", "mesh.bin": bytes(range(256)) * 8000}, tmp_path / "commit")


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("published", [True, False])
def test_an_archive_is_fetched_once(
    published: bool,
    server: Server,
    of_commit: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sha256 = hashlib.sha256(server.content).hexdigest()
    use(monkeypatch, widget(server, sha256) if published else widget(server, listing=of_commit))
    assert assets.main(["check", "calvin"]) == 2
    assert assets.main(["fetch", "calvin"]) == 0
    assert "100%" in capsys.readouterr().err
    assert assets.find("calvin") == home / "calvin"
    assert (home / "calvin/arm/mesh.bin").read_bytes() == bytes(range(256)) * 8000
    assert left(home) == ["calvin"]
    assert server.starts == [0]


def test_a_download_that_broke_off_goes_on(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, widget(server, hashlib.sha256(server.content).hexdigest()))
    server.cut = 1
    with pytest.raises(UserError, match="broke off") as told:
        assets.fetch("calvin")
    assert "\n" not in str(told.value)
    assert not (home / "calvin").exists()
    assert assets.find("calvin") == home / "calvin"
    assert server.starts == [0, len(server.content) // 2]
    assert (home / "calvin/arm/mesh.bin").stat().st_size == 256 * 8000


def test_a_wrong_checksum_leaves_nothing(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, widget(server, "0" * 64))
    for _ in range(2):  # and the next attempt does not go on from the bad bytes
        with pytest.raises(UserError, match="checksum"):
            assets.fetch("calvin")
    assert server.starts == [0, 0]
    assert not (home / "calvin").exists()


def test_other_files_than_the_commits_leave_nothing(
    server: Server, of_commit: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they are packed; and one more file, which Python might import, is another listing too."""
    use(monkeypatch, widget(server, listing=of_commit))
    for name, content in (("urdf/arm.urdf", "<robot></robot>"), ("sitecustomize.py", "")):
        packed = io.BytesIO(archive())
        with zipfile.ZipFile(packed, "a") as file:
            file.writestr(f"widget-1.0/{name}", content)
        server.content = packed.getvalue()
        with pytest.raises(UserError, match="its files are not those of the commit"):
            assets.fetch("calvin")
        assert not (home / "calvin").exists()


def test_a_damaged_archive_is_noticed(
    server: Server, of_commit: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, widget(server, listing=of_commit))
    good, at = server.content, len(server.content) // 2
    server.content = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    with pytest.raises(UserError, match="damaged"):
        assets.fetch("calvin")
    server.content = good
    assert assets.fetch("calvin") == home / "calvin"


def test_without_network_one_line_tells_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, Part("", Archive(CLOSED, ""), ("data",)))
    assert assets.main(["fetch", "calvin"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "python -m pirl_core.envs.assets fetch calvin" in line and "PIRL_CALVIN_ENV" in line


def test_a_dataset_is_compared_with_the_hubs_checksums(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Part("carrot", Dataset(REPO, "carrot"), ("list.json", "model.safetensors")))
    assert assets.find("calvin") == home / "calvin"
    assert left(home) == ["calvin"]
    found = [path for path in (home / "calvin").rglob("*") if path.is_file()]
    assert {path.name: path.read_bytes() for path in found} == {
        "model.safetensors": b"large" * 999,
        "list.json": b"{}",
    }


@pytest.mark.parametrize("path", ["carrot/model.safetensors", "carrot/list.json"])
def test_bytes_that_the_hub_does_not_list_are_refused(
    path: str, hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Part("carrot", Dataset(REPO, "carrot"), ("list.json",)))
    hub.spoil = path
    with pytest.raises(UserError, match=f"{path} is not what the hub lists"):
        assets.fetch("calvin")
    assert not (home / "calvin").exists()
    hub.spoil = ""
    assert assets.fetch("calvin") == home / "calvin"


def test_a_users_folder_is_taken_as_it_is_or_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Part("arm", Archive(CLOSED, ""), ("urdf", "mesh.bin")))
    own = tmp_path / "own"
    (own / "arm/urdf").mkdir(parents=True)
    monkeypatch.setenv("PIRL_CALVIN_ENV", str(own))
    with pytest.raises(UserError, match=r"PIRL_CALVIN_ENV=.*lacks arm/mesh.bin"):
        assets.find("calvin")
    (own / "arm/mesh.bin").touch()
    assert assets.find("calvin") == own


def test_a_full_disk_is_said() -> None:
    assert "no room" in str(assets._line("libero", OSError(errno.ENOSPC, "No space left on device")))
