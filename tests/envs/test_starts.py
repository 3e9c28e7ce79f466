"""Who plays which starts: evaluation has its states to itself, and every task its fair share."""

from collections import Counter
from collections.abc import Hashable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pirl_core import seeds
from pirl_core.envs.contract import Settings
from pirl_core.envs.opening import open_simulator
from pirl_core.envs.put_on_plate import variations
from pirl_core.envs.simpler import facts as simpler_tasks
from pirl_core.errors import UserError
from pirl_core.evaluation.evaluate import split_episodes, validation_episodes
from pirl_core.evaluation.starts import shared_starts
from pirl_core.facts import facts_of
from pirl_core.params.file import Run, load_params, resolve
from pirl_core.params.preset import load_preset, preset_names
from pirl_core.params.sections import Split
from pirl_core.rl.train import iteration_episodes
from pirl_core.types import Episode

SAMPLED, MOST = 2, 50
"""RL iterations of a preset, and demonstrations of a task, whose starts are looked at."""


def state(benchmark: str, episode: Episode) -> Hashable:
    """What fixes where things are when the episode starts, as far as it can be told without the simulator."""
    if listed := facts_of(benchmark).listed(episode.task, episode.shift):
        return listed[episode.number % len(listed)]
    if benchmark == "put_on_plate":
        start = variations.draw(variations.variation_of(episode.shift, episode.task), episode.seed)
        return start.thing, start.plate, start.places[0][:2], start.places[1][:2], start.yaw
    if benchmark == "simpler":
        return episode.task, simpler_tasks.draw(episode.task, episode.seed)
    if benchmark in ("libero", "maniskill"):  # drawn by generators of their own, from this number
        return episode.task, seeds.simulator_seed(episode.seed)
    return episode.task, *seeds.generator("start", episode.seed).uniform(size=2).tolist()


def learnt_from(run: Run, training: list[int]) -> dict[str, Iterable[Episode]]:
    """Episodes that a policy learns from or is chosen by."""
    env, rl, curate = run.env, run.rl, run.curate
    sampled = range(0, rl.iterations, -(-rl.iterations // SAMPLED))
    return {
        "demonstrations": (
            Episode(task, seeds.demo_seed(curate.seed, task, number, attempt), env.shift, number)
            for task in env.tasks
            for number in range(min(curate.episodes_per_task, MOST))
            for attempt in range(2)
        ),
        "training": (
            episode
            for seed in training
            for iteration in sampled
            for episode in iteration_episodes(list(env.tasks), env.shift, rl, seed, iteration)
        ),
        "validation": (
            episode for seed in training for episode in validation_episodes(env, seed, rl.validation_episodes_per_task)
        ),
    }


@pytest.mark.parametrize("preset", preset_names())
def test_no_evaluation_state_is_learnt_from_or_chosen_by(preset: str) -> None:
    """Of every experiment; nor does validation play what training or a demonstration does."""
    params = load_preset(preset)
    for experiment in params.experiments:
        run = resolve(params, experiment)
        kind = run.env.world
        played = {
            use: {state(kind, episode) for episode in group}
            for use, group in learnt_from(run, params.seeds[:1]).items()
        }
        evaluated = {
            state(kind, episode)
            for name in run.evaluate.splits
            for episode in split_episodes(run.env, run.evaluate, name)
        }
        assert all(played.values()) and evaluated
        for use, states in played.items():
            assert not evaluated & states, (experiment, use)
        assert not played["validation"] & (played["training"] | played["demonstrations"])
        assert shared_starts(run.env, run.evaluate) == {}


LISTED = [
    ("simpler", "simpler", ["PutCarrotOnPlateInScene-v1"], "listed", ["PutCarrotOnPlateInScene-v1"], True),
    ("libero", "libero", ["libero_spatial_0"], "stored", ["libero_spatial_0"], True),
    # A subtask alone starts as one of the sequences does that could begin with it.
    ("calvin", "d_to_d", ["D/open_drawer"], "none", ["D/sequence"], True),
    # Other tasks, other states.
    ("calvin", "d_to_d", ["A/open_drawer"], "none", ["D/sequence"], False),
    ("simpler", "simpler", ["PutCarrotOnPlateInScene-v1"], "listed", ["PutSpoonOnTableClothInScene-v1"], False),
]


@pytest.mark.parametrize(("preset", "experiment", "tasks", "shift", "evaluated", "shared"), LISTED)
def test_what_evaluation_shares_with_training_is_told(
    preset: str, experiment: str, tasks: list[str], shift: str, evaluated: list[str], shared: bool
) -> None:
    """Of 48 episodes those whose state, found the long way, is one that ``env.shift`` starts with."""
    run = resolve(load_preset(preset), experiment)
    env = run.env.model_copy(update={"tasks": tasks, "shift": shift})
    split = Split(tasks=evaluated, shift=shift, episodes_per_task=48)
    evaluate = run.evaluate.model_copy(update={"splits": {"id": split}})
    known = {state(env.world, Episode(task, 0, shift, number)) for task in tasks for number in range(1000)}
    found = sum(state(env.world, episode) in known for episode in split_episodes(env, evaluate, "id"))
    assert (found > 0) == shared
    notes = shared_starts(env, evaluate)
    assert list(notes) == (["id"] if shared else [])
    assert all(f"{found} of 48 episodes" in note and f"env.shift = {shift}" in note for note in notes.values())


@cache
def layouts(shift: str, task: str) -> list[variations.Start]:
    """Starts of a set that differ in what lies where, each once: whole for the single task, else a sample."""
    variation = variations.variation_of(shift, task)
    size = variations.size(variation)
    step = 1 if task == variations.SINGLE else 397  # no divisor of any digit
    return [variations.decode(variation, number) for number in range(0, min(size, 400_000), step)]


@pytest.mark.parametrize("task", ["put_on_plate", variations.SINGLE])
def test_every_share_of_the_plates_starts_is_like_the_whole(task: str) -> None:
    """Nearly an eighth, with every object, place and yaw in its usual frequency."""
    starts = layouts("none", task)
    share = np.array([variations.share_of(start) for start in starts])
    digits = {
        "yaw": [start.yaw for start in starts],
        "thing": [start.thing for start in starts],
        "object": [start.places[0][:2] for start in starts],
    }
    for eighth in range(8):
        inside = share == eighth
        count = inside.sum()
        assert abs(count / len(starts) - 1 / 8) < 5 * (7 / 64 / len(starts)) ** 0.5
        for values in digits.values():
            _, which = np.unique(np.array(values), axis=0, return_inverse=True)
            whole = np.bincount(which.ravel()) / len(starts)
            part = np.bincount(which.ravel(), inside) / count
            assert (np.abs(part - whole) < 5 * (whole / count) ** 0.5).all()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(variations.VARIATIONS)), st.sampled_from(seeds.USES), st.integers(0, 2**50 - 1))
def test_a_drawn_plate_start_is_of_its_uses_share(shift: str, use: seeds.Use, hashed: int) -> None:
    """In every set, so that no shifted evaluation plays a layout of training's; tables and pictures do not count."""
    seed = seeds.USES.index(use) << 50 | hashed
    variation = variations.VARIATIONS[shift]
    start = variations.draw(variation, seed)
    assert start == variations.draw(variation, seed)
    assert start.thing in variation.objects and start.table in variation.tables
    assert variations.share_of(start) in variations.SHARES[use]
    assert variations.share_of(start._replace(table=0, extra=0)) == variations.share_of(start)


def test_the_shares_of_learning_choosing_and_evaluating_part_the_plates_starts() -> None:
    shares = variations.SHARES
    assert sorted([*shares["training"], *shares["validation"], *shares["evaluation"]]) == list(range(8))
    assert shares["demonstration"] == shares["training"]


def test_states_of_the_simulator_itself_are_apart() -> None:
    """MetaWorld's own objects, for the four uses of the same numbers."""
    task = "faucet-open-v3"
    simulator = open_simulator(Settings("metaworld", 10, [], 32, True, True, "cpu"), Episode(task, 0))
    states = set()
    for number in range(5):
        for seed in (
            seeds.demo_seed(0, task, number, 0),
            seeds.train_seed(0, task, number),
            seeds.validation_seed(0, task, number),
            seeds.evaluation_seed(0, task, number),
        ):
            simulator.reset(Episode(task, seed, "none", number))
            states.add(simulator.state().tobytes())
    assert len(states) == 20


@settings(max_examples=100, deadline=None)
@given(
    tasks=st.integers(1, 51),
    starts=st.integers(1, 70),
    group=st.sampled_from([1, 2, 8]),
    iterations=st.integers(1, 12),
)
def test_a_run_gives_every_task_the_same_number_of_starts(tasks: int, starts: int, group: int, iterations: int) -> None:
    """But for one; and the episodes of a task are numbered 0, 1, 2, ..., each played by one whole group."""
    rl = resolve(load_preset("smoke"), "metaworld").rl
    rl = rl.model_copy(update={"episodes_per_iteration": starts * group, "group_size": group})
    names = [f"task{number}" for number in range(tasks)]
    played = [iteration_episodes(names, "none", rl, 3, iteration) for iteration in range(iterations)]
    assert {len(episodes) for episodes in played} == {starts * group}
    for episodes in played:
        assert all(len(set(episodes[first : first + group])) == 1 for first in range(0, len(episodes), group))
        within = Counter(episode.task for episode in episodes)
        assert max(within.values()) - min(within[name] for name in names) <= group
    every = Counter(episode for episodes in played for episode in episodes)
    assert set(every.values()) == {group}
    numbers: dict[str, list[int]] = {name: [] for name in names}
    for episode in every:
        numbers[episode.task].append(episode.number)
    counts = [len(found) for found in numbers.values()]
    assert max(counts) - min(counts) <= 1
    assert all(found == list(range(len(found))) for found in numbers.values())
    assert len({episode.seed for episode in every}) == len(every)


@pytest.mark.parametrize(("episodes", "group", "fair"), [(2, 1, True), (4, 2, True), (2, 2, False), (1, 1, False)])
def test_a_run_that_cannot_reach_each_task_is_refused(
    episodes: int, group: int, fair: bool, tmp_path: Path, preset: Path
) -> None:
    """Two iterations and three tasks: four starts are enough, two are not."""
    content = yaml.safe_load(preset.read_text())
    content["env"]["tasks"] = ["reach-v3", "push-v3", "faucet-open-v3"]
    content["rl"] |= {"iterations": 2, "episodes_per_iteration": episodes, "group_size": group}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    if fair:
        load_params(file)
        return
    with pytest.raises(UserError, match=r"env\.tasks has 3 tasks.*rl\.iterations 2 × .*= 2 starts") as caught:
        load_params(file)
    assert "\n" not in str(caught.value)
