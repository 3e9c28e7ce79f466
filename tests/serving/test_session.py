"""Whose noise is next, and who keeps a place."""

from itertools import count

from pirl_core.serving.session import IDLE_SECONDS, Session, Sessions


def test_every_chunk_of_every_episode_has_noise_of_its_own() -> None:
    """Keys of three numbers by the server's seed, of two by the client's, so that neither is ever the other."""
    session = Session(seed=7)
    keys = []
    for own in (None, 3, None):
        for _ in range(2):
            keys.append(session.key(own))
            session.answered()
        if own is not None:
            session.begin()
    assert keys == [(7, 0, 0), (7, 0, 1), (3, 0), (3, 1), (7, 2, 0), (7, 2, 1)]


def test_what_was_not_answered_is_asked_again_with_the_same_noise() -> None:
    session = Session(seed=0)
    assert session.key() == session.key() == (0, 0, 0)
    session.answered()
    assert session.key() == (0, 0, 1)
    assert session.key(5, 9) == (5, 9)
    session.answered()
    assert session.key(5) == (5, 10)
    assert session.key(5, 2) == (5, 2)


def test_a_place_goes_to_another_once_its_client_was_silent_for_long() -> None:
    numbers = count(1)
    sessions: Sessions[str] = Sessions(lambda: f"session {next(numbers)}", 2)
    assert [sessions.of(client) for client in "abab"] == ["session 1", "session 2"] * 2
    assert sessions.of("c") is None
    # As if both had been silent, a for longest.
    for client, silent in (("a", 2.0), ("b", 1.5)):
        kept, seen = sessions.known[client]
        sessions.known[client] = kept, seen - silent * IDLE_SECONDS
    assert sessions.of("c") == "session 3"
    assert list(sessions.known) == ["b", "c"]
    assert sessions.of("a") == "session 4" and list(sessions.known) == ["c", "a"]
