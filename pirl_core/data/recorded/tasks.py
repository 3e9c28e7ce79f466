"""Which task an episode shows: all that a dataset of others tells is a sentence."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pirl_core.errors import UserError
from pirl_core.facts import facts_of
from pirl_core.params.sections import Env


class Shared(NamedTuple):
    """Sentences that name several tasks. tasks: the first is the one whose episodes they are taken to be.

    episodes: how many have one of the sentences.
    """

    tasks: tuple[str, ...]
    sentences: list[str]
    episodes: int


def plain(sentence: str) -> str:
    return sentence.strip().lower()


def tasks_of(source: str, sentences: Sequence[str], env: Env) -> list[str | None]:
    """The first of ``env.tasks`` that has each sentence, None where none has.

    No dataset tells CALVIN's scene, so where one subtask is a task in several scenes, the first has all its episodes; a
    sequence has those of every subtask. Raises UserError for one of ``env.tasks`` whose sentences no episode has.
    """
    said = {task: _sentences_of(task, env) for task in env.tasks}
    shown = [plain(sentence) for sentence in sentences]
    for task, texts in said.items():
        if texts.isdisjoint(shown):
            sentence = facts_of(env.benchmark).task(task).sentences[0]
            raise UserError(
                f"curate.dataset: no episode of {source} shows '{sentence}', which is {task}; drop it from env.tasks,"
                " or give another dataset"
            )
    first = {text: task for task, texts in reversed(said.items()) for text in texts}
    return [first.get(text) for text in shown]


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
    return {plain(text) for text in (*known.sentences, *known.recorded)}
