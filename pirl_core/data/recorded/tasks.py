"""Which task an episode shows: all that a dataset of others tells is a sentence, and of some tasks a number."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pirl_core.data.recorded.files import AGAIN, Listed, Recorded, damaged, fetched
from pirl_core.errors import UserError
from pirl_core.facts import facts_of
from pirl_core.params.sections import Env
from pirl_core.readers.tables import VECTOR, read_table


class Shared(NamedTuple):
    """Sentences that name several tasks. tasks: the first is the one whose episodes they are taken to be.

    episodes: how many have one of the sentences.
    """

    tasks: tuple[str, ...]
    sentences: list[str]
    episodes: int


def plain(sentence: str) -> str:
    return sentence.strip().lower()


def in_own_words(data: Recorded, env: Env) -> Recorded:
    """Episodes that the dataset calls by an alias of a task get the task's own sentence.

    An alias of several tasks is told apart by the number in the episode's file (``Facts.numbered``), where the dataset
    has that column and ``env.tasks`` one of them; else the episode keeps it. Raises UserError for any other number.
    """
    tasks = facts_of(env.benchmark).tasks
    meant: dict[str, list[str]] = {}
    for name, task in tasks.items():
        for alias in task.aliases:
            meant.setdefault(plain(alias), []).append(name)
    unclear = [
        episode.number
        for episode in data.episodes
        if len(names := meant.get(plain(episode.sentence), [])) > 1 and not {*names}.isdisjoint(env.tasks)
    ]
    told = _numbered(data, env, unclear)

    def own(episode: Listed) -> str:
        names = meant.get(plain(episode.sentence), [])
        name = names[0] if len(names) == 1 else told.get(episode.number)
        return episode.sentence if name is None else tasks[name].sentences[0]

    return data._replace(episodes=[episode._replace(sentence=own(episode)) for episode in data.episodes])


def _numbered(data: Recorded, env: Env, episodes: Sequence[int]) -> dict[int, str]:
    """The task of each of the episodes, by its number in their files; {} where the dataset has no such column."""
    facts = facts_of(env.benchmark)
    column = facts.columns.get("task", ("",))[0]
    if column not in data.info["features"]:
        return {}
    found = {}
    for episode, (_, files) in zip(episodes, fetched(data._replace(videos=frozenset()), episodes), strict=True):
        rows = read_table(files["data"], AGAIN, {column: VECTOR})[column].to_pylist()
        numbers = {number for row in rows for number in (row if isinstance(row, list) else [row])}
        if len(numbers) != 1 or not numbers <= facts.numbered.keys():
            known = ", ".join(f"{number} is {task}" for number, task in facts.numbered.items())
            raise damaged(files["data"], f"'{column}' is {sorted(numbers)}; {known}")
        found[episode] = facts.numbered[numbers.pop()]
    return found


def tasks_of(source: str, episodes: Sequence[Listed], env: Env) -> list[Listed]:
    """Each episode with the first of ``env.tasks`` that has its sentence, None where none has, and the part of it.

    No dataset tells CALVIN's scene, so where one subtask is a task in several scenes, the first has all its episodes; a
    sequence has those of every subtask. Raises UserError for one of ``env.tasks`` whose sentences no episode has.
    """
    said = {task: _sentences_of(task, env) for task in env.tasks}
    shown = {plain(episode.sentence) for episode in episodes}
    for task, texts in said.items():
        if texts.isdisjoint(shown):
            sentence = facts_of(env.benchmark).task(task).sentences[0]
            raise UserError(
                f"curate.dataset: no episode of {source} shows '{sentence}', which is {task}; drop it from env.tasks,"
                " or give another dataset"
            )
    first = {text: task for task, texts in reversed(said.items()) for text in texts}
    parts = {
        (task, plain(text)): number
        for task in env.tasks
        for number, texts in enumerate(facts_of(env.benchmark).task(task).parts)
        for text in texts
    }

    def shows(episode: Listed) -> Listed:
        text = plain(episode.sentence)
        task = first.get(text)
        return episode._replace(task=task, part=0 if task is None else parts.get((task, text), 0))

    return [shows(episode) for episode in episodes]


def shared_sentences(sentences: Sequence[str], env: Env) -> list[Shared]:
    """Those among the sentences that are of one of ``env.tasks`` and of other tasks of the benchmark too.

    They are grouped by the tasks that share them; ``env.tasks`` come first, in their order.
    """
    count = Counter(plain(sentence) for sentence in sentences)
    names: dict[str, list[str]] = {sentence: [] for sentence in count}
    for task in dict.fromkeys([*env.tasks, *facts_of(env.benchmark).tasks]):
        for sentence in _sentences_of(task, env) & names.keys():
            names[sentence].append(task)
    groups: dict[tuple[str, ...], list[str]] = {}
    for sentence, tasks in names.items():
        if len(tasks) > 1 and tasks[0] in env.tasks:
            groups.setdefault(tuple(tasks), []).append(sentence)
    return [Shared(tasks, texts, sum(count[text] for text in texts)) for tasks, texts in groups.items()]


def _sentences_of(task: str, env: Env) -> set[str]:
    """What an episode of the task may be called."""
    known = facts_of(env.benchmark).task(task)
    return {plain(text) for text in (*known.sentences, *known.recorded, *known.aliases)}
