"""Isaac-GR00T's own client (N1.6, N1.7), for a Python that has its repository installed; prints what it was told.

python groot_client.py PORT SEEN.npz SEED
"""

import json
import sys

import numpy as np
from gr00t.policy.server_client import PolicyClient

port, seen, seed = int(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3])
client = PolicyClient(host="127.0.0.1", port=port)
assert client.ping()
keys = {name: config.modality_keys for name, config in client.get_modality_config().items()}
client.reset({"seed": seed})
observation = {
    "video": {name: seen[name][None, None] for name in keys["video"]},
    "state": dict(zip(keys["state"], seen["state"][:, None, None, None], strict=True)),
    "language": {keys["language"][0]: [[str(seen["task"])]]},
}
actions = []
for _ in range(2):
    action, _ = client.get_action(observation)
    actions.append(np.concatenate([action[name][0] for name in keys["action"]], -1).tolist())
try:
    client.get_action(observation | {"video": {}})
except RuntimeError as error:
    print(json.dumps({"keys": keys, "actions": actions, "refused": str(error)}))
