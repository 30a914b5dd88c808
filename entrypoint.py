#!/opt/venv/bin/python -Eu
"""What the container runs: the action, or, by its name `capmig-post`, the action's post step."""

import os
import sys
from pathlib import Path

from capmig.main import main

if __name__ == "__main__":
    sys.exit(main(["post"] if Path(sys.argv[0]).name == "capmig-post" else sys.argv[1:], os.environ))
