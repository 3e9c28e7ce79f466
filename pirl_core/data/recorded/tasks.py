"""Which task an episode shows: all that a dataset of others tells is a sentence, and of some tasks a number."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pirl_core.data.recorded.files import Listed, Recorded, damaged, fetched_tables
from pirl_core.data.recorded.rows import Rows
from pirl_core.errors import UserError
from pirl_core.facts import Facts
from pirl_core.readers.tables import TEXT, VECTOR


class Shared(NamedTuple):
    """Sentences that name several tasks. tasks: the first is the one whose episodes they are taken to be.

    episodes: how many have one of the sentences.
    """

    tasks: tuple[str, ...]
    sentences: list[str]
    episodes: int


def plain(sentence: str) -> str:
    return sentence.strip().lower()


def with_sentences(data: Recorded) -> Recorded:
    """Episodes have the sentence that a column of their rows says, in place of the listed one.

    Raises UserError where it says several in one episode, or none.
    """
    [column] = data.columns["sentence"]
    rows, episodes = Rows(data, {column: TEXT}), []
    for episode, path in zip(data.episodes, fetched_tables(data, data.episodes), strict=True):
        said = list(dict.fromkeys(rows.of(episode, path)[column].to_pylist()))
        if len(said) != 1 or not plain(said[0]):
            shown = ", ".join(f"'{text[:40]}'" for text in said[:2]) or "nothing"
            raise damaged(
                path,
                f"'{column}' of episode {episode.number} says {shown}",
                "give a column that says one sentence an episode (curate.columns.sentence)",
            )
        episodes.append(episode._replace(sentence=said[0]))
    return data._replace(episodes=episodes)


def in_own_words(data: Recorded) -> Recorded:
    """Episodes that the dataset calls by an alias of a task get the task's own sentence.

    An alias of several tasks is told apart by the number in the episode's file (``Facts.numbered``), where the dataset
    has that column and ``data.tasks`` one of them; else the episode keeps it. Raises UserError for any other number.
    """
    tasks = data.facts.tasks
    meant: dict[str, list[str]] = {}
    for name, task in tasks.items():
        for alias in task.aliases:
            meant.setdefault(plain(alias), []).append(name)
    unclear = [
        episode
        for episode in data.episodes
        if len(names := meant.get(plain(episode.sentence), [])) > 1 and not {*names}.isdisjoint(data.tasks)
    ]
    told = _numbered(data, unclear)

    def own(episode: Listed) -> str:
        names = meant.get(plain(episode.sentence), [])
        name = names[0] if len(names) == 1 else told.get(episode.number)
        return episode.sentence if name is None else tasks[name].sentences[0]

    return data._replace(episodes=[episode._replace(sentence=own(episode)) for episode in data.episodes])


def _numbered(data: Recorded, episodes: Sequence[Listed]) -> dict[int, str]:
    """The task of each of the episodes, by its number in their files; {} where the dataset has no such column."""
    names = [own["task"][0] for own in data.facts.columns if own.get("task", ("",))[0] in data.info["features"]]
    if not names:
        return {}
    column, numbered = names[0], data.facts.numbered
    rows, found = Rows(data, {column: VECTOR}), {}
    for episode, path in zip(episodes, fetched_tables(data, episodes), strict=True):
        values = rows.of(episode, path)[column].to_pylist()
        numbers = {number for row in values for number in (row if isinstance(row, list) else [row])}
        if len(numbers) != 1 or not numbers <= numbered.keys():
            known = ", ".join(f"{number} is {task}" for number, task in numbered.items())
            raise damaged(path, f"'{column}' is {sorted(numbers)}; {known}")
        found[episode.number] = numbered[numbers.pop()]
    return found


def tasks_of(source: str, data: Recorded) -> list[Listed]:
    """Each episode with the first of ``data.tasks`` that has its sentence, None where none has, and the part of it.

    No dataset tells CALVIN's scene, so where one subtask is a task in several scenes, the first has all its episodes; a
    sequence has those of every subtask. Raises UserError for one of them whose sentences no episode has.
    """
    facts, episodes = data.facts, data.episodes
    said = {task: _sentences_of(task, facts) for task in data.tasks}
    shown = {plain(episode.sentence) for episode in episodes}
    for task, texts in said.items():
        if texts.isdisjoint(shown):
            sentence = facts.task(task).sentences[0]
            raise UserError(
                f"curate.dataset: no episode of {source} shows '{sentence}', which is {task}; drop it from env.tasks,"
                f" {'set env.keys.sentence to what they are told' if facts.of else 'or give another dataset'}"
            )
    first = {text: task for task, texts in reversed(said.items()) for text in texts}
    parts = {
        (task, plain(text)): number
        for task in data.tasks
        for number, texts in enumerate(facts.task(task).parts)
        for text in texts
    }

    def shows(episode: Listed) -> Listed:
        text = plain(episode.sentence)
        task = first.get(text)
        return episode._replace(task=task, part=0 if task is None else parts.get((task, text), 0))

    return [shows(episode) for episode in episodes]


def shared_sentences(sentences: Sequence[str], chosen: Sequence[str], facts: Facts) -> list[Shared]:
    """Those among the sentences that are of one of the ``chosen`` tasks and of other tasks of the benchmark too.

    They are grouped by the tasks that share them; the chosen ones come first, in their order.
    """
    count = Counter(plain(sentence) for sentence in sentences)
    names: dict[str, list[str]] = {sentence: [] for sentence in count}
    for task in dict.fromkeys([*chosen, *facts.tasks]):
        for sentence in _sentences_of(task, facts) & names.keys():
            names[sentence].append(task)
    groups: dict[tuple[str, ...], list[str]] = {}
    for sentence, tasks in names.items():
        if len(tasks) > 1 and tasks[0] in chosen:
            groups.setdefault(tuple(tasks), []).append(sentence)
    return [Shared(tasks, texts, sum(count[text] for text in texts)) for tasks, texts in groups.items()]


def _sentences_of(task: str, facts: Facts) -> set[str]:
    """What an episode of the task may be called."""
    known = facts.task(task)
    return {plain(text) for text in (*known.sentences, *known.recorded, *known.aliases)}
