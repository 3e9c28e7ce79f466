"""Published checkpoints in, ours out: where they lie, what is in them, how they are written and pushed.

Nothing here knows a model family: a key map is an argument (``pirl_core/policy/layouts``).
"""
