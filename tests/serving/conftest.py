"""One policy and what it sees, for the tests of every protocol."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pirl_core.serving.policy import Policy
    from pirl_core.types import Observation


# Imported when they are called: a package that lacks is an error of the tests that need it, not of the whole session.
@pytest.fixture(scope="module")
def policy() -> "Policy":
    from tests.serving.running import libero_policy

    return libero_policy()


@pytest.fixture(scope="module")
def seen(policy: "Policy") -> "Observation":
    from tests.worlds import random_observation

    return random_observation(policy.flow, 64)
