"""Policies out: one call in a notebook, and servers that robot clients of the field know.

``policy`` acts on an observation. ``keys`` finds one in a client's message, ``session`` knows whose noise is next,
``batcher`` joins what several clients ask into one forward. ``openpi``, ``vla_eval``, ``groot`` and ``lerobot`` are the
protocols, as functions from a message to what it asks for and from an answer to a message; ``websocket``, ``zeromq``
and ``grpc_calls`` carry the bytes to ``server``, the common core.
"""
