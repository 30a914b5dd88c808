"""Ask an app for its page again and again, from inside the swarm's network; a line of JSON for each answer.

Names are resolved at each turn, as a proxy would do. `at`: seconds since the epoch when the question was put.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import sys
import time

PAUSE = 0.05


def ask(name: str) -> dict[str, object]:
    sample: dict[str, object] = {"at": time.time(), "status": 0}
    try:
        addresses = sorted({str(info[4][0]) for info in socket.getaddrinfo(name, 80, socket.AF_INET)})
        connection = http.client.HTTPConnection(random.choice(addresses), 80, timeout=3)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            sample["status"] = answer.status
            sample |= json.loads(answer.read())
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        sample["error"] = f"{type(error).__name__}: {error}"
    sample["took"] = round(time.time() - float(str(sample["at"])), 3)
    return sample


if __name__ == "__main__":
    while True:
        print(json.dumps(ask(sys.argv[1])), flush=True)
        time.sleep(PAUSE)
