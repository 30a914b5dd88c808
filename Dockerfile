FROM python:3.13-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends openssh-client \
    && rm -rf /var/lib/apt/lists/*

COPY requirements.txt /app/
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --only-binary=:all: --require-hashes -r /app/requirements.txt

# The runner starts the post step with --entrypoint and no arguments, so it needs a program of its own. The shell gives way
# to Python (exec), which is then the first process and gets the runner's signals.
RUN printf '#!/bin/sh\nexec /opt/venv/bin/python -Eu /app/entrypoint.py post\n' > /usr/local/bin/capmig-post \
    && chmod 755 /usr/local/bin/capmig-post

COPY capmig /app/capmig
COPY entrypoint.py /app/

# Root, because the runner's mounts belong to root. -E: a PYTHONPATH of the workflow must not bring in other modules.
# -u: log lines appear when they are written.
ENTRYPOINT ["/opt/venv/bin/python", "-Eu", "/app/entrypoint.py"]
