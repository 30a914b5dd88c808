"""What the container runs: the action, or with the argument `post` its post step."""

import os
import sys

from capmig.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
