"""Random streams: every one has a purpose, no two meet, and nothing is drawn that has no key."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pirl_core import seeds
from pirl_core.envs.put_on_plate import variations
from pirl_core.envs.simpler import facts as simpler_tasks
from pirl_core.policy.flow_policy import keyed_normals

MAKERS = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox", "MT19937", "SFC64", "RandomState"}
SEEDED = {"manual_seed", "manual_seed_all", "seed", "set_seed", "RandomState"}
MAKE_KEYED = {"generator", "integer", "keyed_normals", "keyed_uniforms", "_digest"}
PUBLISHED = Path("pirl_core/envs/calvin/sequences.py")
"""Draws CALVIN's evaluation sequences and scenes again, as published, from the numbers that were published for it."""


def modules(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("pirl_core", "flows"):
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root), ast.parse(path.read_text())


def called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def keyed(node: ast.expr) -> bool:
    """Whether it is a call of ``seeds``, or a constant (of a simulator that has nothing left to draw)."""
    ours = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return isinstance(node, ast.Constant) or (ours and getattr(node.func.value, "id", "") == "seeds")  # type: ignore[attr-defined]


def unkeyed(tree: ast.Module) -> list[str]:
    """Generators that are made without ``seeds``, and seeds given to libraries that are none of its numbers."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            found += [f"{node.lineno}: import of {name}" for name in names & {"random", "secrets", "numpy.random"}]
        elif isinstance(node, ast.Call):
            name, given = called(node), [*node.args, *(word.value for word in node.keywords)]
            if name in SEEDED:
                found += [f"{node.lineno}: {name}" for one in given[:1] if not keyed(one)]
                found += [] if given else [f"{node.lineno}: {name}"]
            elif name in MAKERS:
                found.append(f"{node.lineno}: {name}")
            elif name == "reset":
                words = [word.value for word in node.keywords if word.arg == "seed"]
                found += [f"{node.lineno}: reset" for value in words if not keyed(value)]
    return found


def test_nothing_is_drawn_without_a_key(root: Path) -> None:
    makers = {path: lines for path, tree in modules(root) if (lines := unkeyed(tree))}
    assert set(makers) == {Path("pirl_core/seeds.py"), PUBLISHED}, makers
    assert len(makers[Path("pirl_core/seeds.py")]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "np.random.default_rng([episode.seed, 0])",
        "torch.manual_seed(seed)",
        "np.random.seed(seed)",
        "RandomState(3 + seed)",
        "env.reset(seed=episode.seed)",
        "import random",
        "np.random.RandomState()",
    ],
)
def test_the_check_sees_what_it_looks_for(line: str) -> None:
    assert unkeyed(ast.parse(line))
    assert not unkeyed(ast.parse("torch.manual_seed(seeds.integer('network', seed)); seeds.generator('start', 1)"))


def test_each_purpose_has_its_use_and_no_other_word_is_used(root: Path) -> None:
    used: dict[str, set[str]] = {}
    for path, tree in modules(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and called(node) in MAKE_KEYED:
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant):
                    used.setdefault(str(first.value), set()).add(str(path))
    assert set(used) == set(seeds.PURPOSES)
    # One place for each: a second one would need to be the same draw. (Every benchmark draws its starts.)
    assert {word for word, places in used.items() if len(places) > 1} <= {"start"}


def first_words(purpose: seeds.Purpose, key: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(seeds.generator(purpose, *key).integers(0, 2**63, 2).tolist())


parts = st.one_of(st.integers(0, 3), st.integers(-(2**80), 2**80), st.sampled_from(["", "0", "1", "a", "ab", "start"]))
keys = st.lists(parts, max_size=4).map(tuple)


@settings(max_examples=100, deadline=None)
@given(st.lists(keys, min_size=1, max_size=8, unique_by=repr))
def test_no_two_purposes_and_no_two_keys_share_a_stream(found: list[tuple[int | str, ...]]) -> None:
    """Not where one key begins with the other, or is the other filled up with zeros, which numpy's seeding ignores."""
    longer = {repr(key): key for one in found for key in (one, (*one, 0), (0, *one), (*one, ""), (*one, 0, 0))}
    every = [first_words(purpose, key) for purpose in seeds.PURPOSES for key in longer.values()]
    assert len(set(every)) == len(every)
    assert every == [first_words(purpose, key) for purpose in seeds.PURPOSES for key in longer.values()]


def test_words_are_told_from_numbers_and_from_how_they_are_cut() -> None:
    alike: list[tuple[int | str, ...]] = [(1,), ("1",), (1, 0), ("a", "bc"), ("ab", "c"), ("abc",), ('a","bc',), ()]
    assert len({first_words("start", key) for key in alike}) == len(alike)
    with pytest.raises(TypeError):
        seeds.generator("start", np.int64(1))  # type: ignore[arg-type]


numbers = st.integers(0, 2**70)


@settings(max_examples=200, deadline=None)
@given(seed=numbers, task=st.text(max_size=20), number=numbers, attempt=st.integers(0, 20))
def test_an_episodes_seed_and_its_simulators_tell_its_use(seed: int, task: str, number: int, attempt: int) -> None:
    found = [
        seeds.demo_seed(seed, task, number, attempt),
        seeds.train_seed(seed, task, number),
        seeds.validation_seed(seed, task, number),
        seeds.evaluation_seed(seed, task, number),
    ]
    assert tuple(map(seeds.use_of, found)) == seeds.USES
    # Exact in JSON and in float64; and what numpy's and mani_skill's seeding take.
    assert all(0 <= value < 2**52 and 0 <= seeds.simulator_seed(value) < 2**32 for value in found)
    assert [seeds.simulator_seed(value) >> 30 for value in found] == [0, 1, 2, 3]
    assert found[0] != seeds.demo_seed(seed, task, number, attempt + 1)


def test_no_seed_comes_twice() -> None:
    """Of 60,000 episodes; of seeds of 30 bits one or two would."""
    every = {seeds.evaluation_seed(s, t, i) for s in range(3) for t in "abcde" for i in range(4000)}
    assert len(every) == 60_000


def _start_of_libero(seed: int) -> list[float]:
    drawn: list[float] = np.random.RandomState(seeds.simulator_seed(seed)).uniform(size=3).tolist()
    return drawn


def _start_of_plate(seed: int) -> list[float]:
    start = variations.draw(variations.VARIATIONS["none"], seed)
    return [start.thing, start.table, start.yaw, *start.places[0][:2], *start.places[1][:2]]


def _start_of_simpler(seed: int) -> list[float]:
    start = simpler_tasks.draw("PutCarrotOnPlateInScene-v1", seed)
    return [start.number, *np.ravel(start.moved), start.turned]


def _start_of_calvin(seed: int) -> list[float]:
    rng = seeds.generator("start", seed)
    return [float(rng.integers(192)), *rng.uniform(size=2)]


STARTS: dict[str, Callable[[int], Any]] = {
    "metaworld": lambda seed: seeds.generator("start", seed).uniform(size=3),
    "metaworld's looks": lambda seed: seeds.generator("looks", seed).uniform(size=3),
    "libero and maniskill": _start_of_libero,
    "put_on_plate": _start_of_plate,
    "simpler": _start_of_simpler,
    "calvin": _start_of_calvin,
}


@pytest.mark.parametrize("benchmark", STARTS)
@pytest.mark.parametrize("decision", [0, 1])
def test_where_things_start_says_nothing_of_the_first_chunks_noise(benchmark: str, decision: int) -> None:
    """With one stream for both the size of a noise element followed the start with a correlation of 0.75."""
    count = 2000
    episodes = [seeds.evaluation_seed(0, "faucet-open-v3", number) for number in range(count)]
    begun = np.array([STARTS[benchmark](seed) for seed in episodes], float)
    noise = keyed_normals("chunk", [(seed, decision) for seed in episodes], (10, 4)).reshape(count, -1).numpy()
    for shown in (noise, np.abs(noise)):
        apart = np.corrcoef(begun.T, shown.T)[: begun.shape[1], begun.shape[1] :]
        assert np.abs(apart).max() < 5 / count**0.5
