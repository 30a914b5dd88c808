"""`python -m tests.sandbox up [NODES]` or `down`: make the sandbox and leave it running, or remove all sandboxes."""

from __future__ import annotations

import sys

from tests.sandbox.engine import answers
from tests.sandbox.sandbox import Sandbox, down_all

if sys.argv[1:2] == ["up"]:
    sandbox = Sandbox.up(nodes=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    print(f"export DOCKER_HOST=unix://{sandbox.nodes[0].socket}")
    sandbox.close()
elif sys.argv[1:] == ["down"]:
    if answers():
        down_all()
else:
    sys.exit(__doc__)
