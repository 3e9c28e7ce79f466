"""A few successes and failures as small GIFs: the recorded actions are simulated again and drawn, by the workers that
played the episodes."""

from pathlib import Path
from typing import NamedTuple

from pirl_core.envs.vector.replay import Take
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.evaluation.evaluate import Outcome
from pirl_core.facts import Score
from pirl_core.files import naming, write_json
from pirl_core.training.gif import encoded
from pirl_core.training.track import Tracker

SIZE = 160
EVERY = 4
FPS = 16


class Filmed(NamedTuple):
    """An episode chosen for a video. label: its split."""

    label: str
    outcome: Outcome


def choose(label: str, outcomes: list[Outcome], per_outcome: int, score: Score = "success") -> list[Filmed]:
    """The first ``per_outcome`` successes and failures, each from another task as long as there is one; where returns
    count, the highest and the lowest."""
    if score == "return":
        ranked = sorted(outcomes, key=lambda outcome: -outcome.reward)
        ends = [*ranked[:per_outcome], *ranked[max(per_outcome, len(ranked) - per_outcome) :]]
        return [Filmed(label, outcome) for outcome in ends]
    chosen = []
    for success in (True, False):
        seen: dict[str, int] = {}
        numbered: list[tuple[int, int, Outcome]] = []
        for outcome in outcomes:
            if outcome.success == success:
                task = outcome.episode.task
                seen[task] = seen.get(task, 0) + 1
                numbered.append((seen[task], len(numbered), outcome))
        chosen += [Filmed(label, outcome) for _, _, outcome in sorted(numbered, key=lambda row: row[:2])[:per_outcome]]
    return chosen


def write_videos(
    envs: VectorEnv, filmed: list[Filmed], folder: Path, tracker: Tracker, score: Score = "success"
) -> None:
    """GIFs, then ``videos.json``, which lists them with split, task, success or return, and episode seed.

    An episode that ends otherwise when it is simulated again, as on a GPU it may, is left out with a word.
    """
    folder.mkdir()
    listed = {}
    takes = [Take(outcome.episode, outcome.actions) for _, outcome in filmed]
    if filmed:
        tracker.aside("videos", 0, len(filmed))
    for done, (number, film) in enumerate(envs.film(takes, SIZE, EVERY), 1):
        label, outcome = filmed[number]
        result = f"return_{outcome.reward:.0f}" if score == "return" else "success" if outcome.success else "failure"
        if film.success == outcome.success:
            name = f"{number:02d}-{label}-{outcome.episode.task}-{result}".replace(":", "-").replace("/", "-")
            path = folder / f"{name}.gif"
            with naming(path):
                path.write_bytes(encoded(film.frames, FPS))
            tracker.video(tracker.total, name, film.frames, FPS)
            listed[number] = {
                "file": path.name,
                "split": label,
                "task": outcome.episode.task,
                "success": outcome.success,
                **({"return": outcome.reward} if score == "return" else {}),
                "episode": outcome.episode.seed,
            }
        else:
            print(f"no video of a {result} at {outcome.episode.task}: simulated again it ended otherwise", flush=True)
        tracker.aside("videos", done, len(filmed))
    write_json(folder / "videos.json", [listed[number] for number in sorted(listed)])
