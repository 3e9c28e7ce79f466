"""The model families. Each is one class: ``encode`` an observation once, then ask for the ``velocity`` as needed."""

from pirl_core.policy.pi0 import Pi0

Backbone = Pi0
