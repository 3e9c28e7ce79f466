"""Downloads from and pushes to a hub on localhost, through the real client: whole or one line, never half."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save, save_file

from pirl_core.checkpoints.push import push
from pirl_core.checkpoints.read import open_weights
from pirl_core.checkpoints.source import find_checkpoint
from pirl_core.commands import cli
from pirl_core.errors import UserError
from pirl_core.report.card import BASES, Facts, model_card
from tests.checkpoints.fake_hub import REPO, Hub, serve
from tests.checkpoints.test_checkpoints import contents, told

ROW = {
    "experiment": "metaworld", "benchmark": "metaworld", "model": "tiny π0", "split": "id", "seeds": [0, 1],
    "n": 240, "successes": 180, "rate": 0.75, "ci_low": 0.6915, "ci_high": 0.8006,
}  # fmt: skip
METRICS: dict[str, list[Any]] = {
    "rows": [
        ROW | {"method": "sft", "successes": 120, "rate": 0.5, "ci_low": 0.4372, "ci_high": 0.5628},
        ROW | {"method": "flow_sde"},
        ROW | {"method": "flow_noise", "rate": 0.99},
        ROW | {"method": "flow_sde", "experiment": "other", "rate": 0.11},
    ]
}
CLOSED = "http://127.0.0.1:9"  # the port of "discard", where nobody listens
FACTS = Facts(REPO, "metaworld", "flow_sde", 1, {"rl": {"lr": 0.001}}, "abc1234", "owner/data", None)


def weights(value: float) -> bytes:
    return bytes(save({"paligemma_with_expert.x": torch.full((50_000,), value)}))


def files(value: float) -> dict[str, bytes]:
    return {
        "model.safetensors": weights(value),
        "config.json": b"{}",
        "assets/x/norm_stats.json": b"{}",
        "tokenizer.json": b"{}",
        "training.pt": b"a pickle",
        "optimizer/model.safetensors": weights(9),
        "train.py": b"code",
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one commit; the client's cache is empty, and it does not wait between attempts."""
    made = Hub()
    made.commit(files(1))
    with serve(made):
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", "bad")
        yield made


def test_a_commit_is_downloaded_without_pickles_or_code(hub: Hub, tmp_path: Path) -> None:
    first = hub.head[0]
    second = hub.commit(files(2))
    found = find_checkpoint(REPO)
    assert (found.repo, found.commit) == (REPO, second) and contents(found.folder).keys() == {
        "model.safetensors", "config.json", "assets/x/norm_stats.json", "tokenizer.json",
    }  # fmt: skip
    assert load_file(open_weights(found.folder).files["paligemma_with_expert.x"])["paligemma_with_expert.x"][0] == 2
    old = find_checkpoint(REPO, first)
    assert old.commit == first and (old.folder / "model.safetensors").read_bytes() == weights(1)
    assert find_checkpoint(str(found.folder)) == (found.folder, None, None)
    assert "leave it out" in told(find_checkpoint, str(found.folder), "main")


def test_what_is_in_the_cache_needs_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_checkpoint(REPO)
    asked = len([line for line in hub.requests if "resolve" in line])
    assert find_checkpoint(REPO) == found
    assert len([line for line in hub.requests if "resolve" in line]) == asked
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    assert find_checkpoint(REPO) == found
    (found.folder / "model.safetensors").unlink()
    assert f"hf download {REPO} --local-dir FOLDER" in told(find_checkpoint, REPO)


def test_a_broken_connection_is_taken_up_again(hub: Hub) -> None:
    hub.cut = 3
    found = find_checkpoint(REPO)
    assert (found.folder / "model.safetensors").read_bytes() == weights(1) and not hub.cut
    size = len(weights(1))
    assert hub.starts[:2] == [0, size // 2 // 1000 * 1000] and len(hub.starts) == 4 and sorted(hub.starts) == hub.starts


def test_an_interrupted_download_is_one_line_and_a_rerun_ends_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut for good leaves no weights under their name, and what an earlier commit brought untouched."""
    before = find_checkpoint(REPO)
    was = contents(before.folder)
    hub.commit(files(2))
    hub.cut = 10**6
    message = told(find_checkpoint, REPO)
    assert "the download broke off" in message and "run the command again" in message
    assert not list(tmp_path.rglob("*.incomplete")) and contents(before.folder) == was
    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", CLOSED)
        assert "no whole copy in the cache" in told(find_checkpoint, REPO)
    hub.cut = 0
    found = find_checkpoint(REPO)
    assert (found.folder / "model.safetensors").read_bytes() == weights(2)


def test_a_full_disk_is_one_line_and_a_rerun_ends_the_download(hub: Hub, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(weights(1)) // 2, limits[1]))
    try:
        message = told(find_checkpoint, REPO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "no room for the download" in message and "HF_HOME" in message and not list(tmp_path.rglob("*.incomplete"))
    assert (find_checkpoint(REPO).folder / "model.safetensors").read_bytes() == weights(1)


def test_each_refusal_names_its_remedy(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no revision 'v9'" in told(find_checkpoint, REPO, "v9")
    assert "not on the hub or private" in told(find_checkpoint, "someone/else")
    assert "no hub id" in told(find_checkpoint, "outputs/rl/x/policy")
    (tmp_path / "x.pt").write_bytes(b"")
    assert "checkpoints.convert" in told(find_checkpoint, str(tmp_path / "x.pt"))
    hub.gated = True
    message = told(find_checkpoint, REPO)
    assert "gated" in message and "HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "good")
    assert find_checkpoint(REPO).commit == hub.head[0]


def policy(folder: Path, value: float = 3) -> Path:
    folder.mkdir()
    save_file({"pi0.x": torch.full((9,), value)}, folder / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "junk.pt", ".model.safetensors.partial", "notes.md"):
        (folder / name).write_text("{}")
    return folder


def test_a_push_is_one_commit_with_the_card(hub: Hub, tmp_path: Path) -> None:
    """The weights of the push before go, other files stay."""
    hub.commit(files(1) | {"model-00001-of-00002.safetensors": b"", "model.safetensors.index.json": b"{}"})
    folder = policy(tmp_path / "policy")
    commit = push(folder, REPO, "---\nlicense: mit\n---\ncard", "why")
    assert len(hub.commits) == 3 and commit == hub.head[0]
    there = hub.head[1]
    assert there.keys() == files(1).keys() | {"README.md"} and there["README.md"].endswith(b"card")
    assert there["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert find_checkpoint(REPO).commit == commit


@pytest.mark.parametrize("at", ["preupload", "objects/batch", "/objects/", "commit/main"])
def test_an_interrupted_push_leaves_the_revision_before(at: str, hub: Hub, tmp_path: Path) -> None:
    folder = policy(tmp_path / "policy")
    before, local = list(hub.commits), contents(folder)
    hub.refuse = at
    message = told(push, folder, REPO, "---\nlicense: mit\n---\n", "why")
    assert REPO in message and "run the command again" in message and "nothing there is half-written" in message
    assert hub.commits == before and contents(folder) == local and any(at in line for line in hub.requests)
    hub.refuse = ""
    push(folder, REPO, "---\nlicense: mit\n---\n", "why")
    assert len(hub.commits) == len(before) + 1


@pytest.mark.parametrize("at", ["objects/batch", "/objects/", "commit/main"])
def test_a_killed_push_leaves_the_revision_before(at: str, hub: Hub, tmp_path: Path) -> None:
    """SIGKILL while the hub keeps it waiting: the old weights can be fetched, a rerun puts the new ones there."""
    folder = policy(tmp_path / "policy")
    before = list(hub.commits)
    code = (
        f"from pathlib import Path; from pirl_core.checkpoints.push import push; push(Path({str(folder)!r}), {REPO!r},"
    )
    code += " '---\\nlicense: mit\\n---\\n', 'why')"
    hub.stall = at
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"},
    )
    try:
        assert hub.stalled.wait(60) and child.poll() is None
    finally:
        child.kill()
        child.wait()
    assert hub.commits == before and (find_checkpoint(REPO).folder / "model.safetensors").read_bytes() == weights(1)
    hub.stall = ""
    commit = push(folder, REPO, "---\nlicense: mit\n---\n", "why")
    found = find_checkpoint(REPO)
    assert len(hub.commits) == len(before) + 1 and found.commit == commit
    assert (found.folder / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_pushes_that_must_not_be(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut weights, no right to write, and a commit that someone else made between looking and pushing."""
    folder = policy(tmp_path / "policy")
    arguments = (folder, REPO, "---\nlicense: mit\n---\n", "why")
    answer = hub.commit

    def overtaken(self: Any, path: str) -> dict[str, Any]:
        answer({"theirs": b""})
        return {"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None}

    with monkeypatch.context() as patch:
        patch.setattr("tests.checkpoints.fake_hub._Handler.mode", overtaken)
        assert "someone else pushed meanwhile" in told(push, *arguments)
    assert hub.head[1] == {"theirs": b""}
    hub.readonly = True
    assert "(403); set HF_TOKEN" in told(push, *arguments)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    asked = len(hub.requests)
    assert "cut short" in told(push, *arguments) and len(hub.requests) == asked


def test_the_card_tells_numbers_origin_and_terms() -> None:
    card = model_card(FACTS, METRICS, {})
    head, body = card.split("---\n")[1:]
    assert yaml.safe_load(head)["license"] == "apache-2.0" and yaml.safe_load(head)["datasets"] == ["owner/data"]
    assert "| flow_sde | id | 75.0 % | 69.2 to 80.1 % | 180 of 240 |" in body
    assert "| sft | id | 50.0 % |" in body and "flow_noise" not in body and "11.0 %" not in body
    assert "`abc1234`" in body and "lr: 0.001" in body and "seeds 0, 1 are pooled" in body
    for name, base in BASES.items():
        origin = {"family": name, "folder": None, "repo": "some/weights", "commit": "f00"}
        text = model_card(FACTS._replace(base=origin, dataset="own words"), METRICS, {})
        data = yaml.safe_load(text.split("---\n")[1])
        assert data["license"] == base.licence and data["base_model"] == "some/weights" and "datasets" not in data
        assert (data["license"] == "other") == ("license_name" in data)
        assert base.terms in text and "`f00`" in text and "own words" in text
        text = model_card(
            FACTS._replace(base=origin | {"repo": None, "commit": None, "folder": "/secret"}), METRICS, {}
        )
        assert base.terms in text and "base_model" not in text and "/secret" not in text
    assert "no results for metaworld-grpo" in told(model_card, FACTS._replace(method="grpo"), METRICS, {})


def test_pirl_push(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], root: Path) -> None:
    """The card is made from the record of the run and from results/laptop/metrics.json as this repository holds it."""
    folder = policy(tmp_path / "policy")
    metrics = root / "results/laptop/metrics.json"
    row = next(row for row in json.loads(metrics.read_text())["rows"] if row["method"] != "sft")
    record = {
        "stage": "rl", "name": f"{row['experiment']}-{row['method']}-0", "seeds": {"training": 0},
        "params": {"rl": {"lr": 1}}, "revision": "abc",
    }  # fmt: skip
    path, start = tmp_path / "outputs/run/rl/x.json", tmp_path / f"outputs/sft/{row['experiment']}-0"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    words = ["push", str(folder), REPO, "--metrics", str(metrics), "--record", str(path)]
    assert cli.main(words) == 2 and "the base weights are unknown; give it with --sft" in capsys.readouterr().err
    start.mkdir(parents=True)
    (start / "metrics.jsonl").touch()
    assert cli.main([*words, "--dry-run"]) == 0 and not hub.requests
    card = capsys.readouterr().out
    assert f"{row['successes']} of {row['n']}" in card
    assert cli.main(words) == 0 and hub.head[1]["README.md"].decode() == card
    assert capsys.readouterr().out == f"{REPO}: commit {hub.head[0]}\n"
    assert "## Videos" not in card
    films = tmp_path / f"outputs/evaluate/{record['name']}/videos"
    films.mkdir(parents=True)
    listed = []
    for number, success in enumerate((True, False)):
        (films / f"0{number}-id.gif").write_bytes(f"GIF{number}".encode())
        told_of = {"split": "id", "task": "reach-v3", "success": success, "episode": number}
        listed.append({"file": f"0{number}-id.gif", **told_of})
    (films / "videos.json").write_text(json.dumps(listed))
    hub.commit(hub.head[1] | {"videos/old.gif": b"GIF"})
    assert cli.main(words) == 0
    there = hub.head[1]
    assert {name: there[name] for name in there if name.startswith("videos/")} == {
        "videos/00-id.gif": b"GIF0", "videos/01-id.gif": b"GIF1",
    }  # fmt: skip
    card = there["README.md"].decode()
    assert "![reach-v3](videos/00-id.gif)\n\n`reach-v3`, ID: success\n" in card and "ID: failure" in card
    capsys.readouterr()
    origin = {"family": "pi05", "folder": None, "repo": "lerobot/pi05_libero", "commit": "f00"}
    (start / "pretrained.json").write_text(json.dumps(origin))
    assert "trained from scratch" in card and cli.main([*words, "--dry-run"]) == 0
    head = yaml.safe_load(capsys.readouterr().out.split("---\n")[1])
    assert (head["license"], head["base_model"]) == ("gemma", "lerobot/pi05_libero")
    (start / "pretrained.json").write_text("{}")
    assert cli.main(words) == 2 and "pretrained.json: family = {}: field required" in capsys.readouterr().err
    path.write_text('{"stage": "rl"}')
    assert cli.main(words) == 2 and "x.json: name = " in capsys.readouterr().err


def test_the_fake_is_used(hub: Hub) -> None:
    """Nothing above could pass against the real hub."""
    with pytest.raises(UserError):
        find_checkpoint("lerobot/pi0_base")
    assert any("lerobot/pi0_base" in line for line in hub.requests)
