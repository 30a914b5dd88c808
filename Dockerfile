FROM python:3.13-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends age openssh-client openssl \
    && rm -rf /var/lib/apt/lists/*

COPY requirements.txt /app/
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --only-binary=:all: --require-hashes -r /app/requirements.txt

COPY capmig /app/capmig
COPY entrypoint.py /app/

# The runner starts the post step with --entrypoint and no arguments, so it needs a program of its own. No shell in between:
# it would swallow the runner's signals, and Debian's drops the inputs, whose names have hyphens.
RUN chmod 755 /app/entrypoint.py && ln -s /app/entrypoint.py /usr/local/bin/capmig-post

# Root, because the runner's mounts belong to root. -E: a PYTHONPATH of the workflow must not bring in other modules.
# -u: log lines appear when they are written.
ENTRYPOINT ["/opt/venv/bin/python", "-Eu", "/app/entrypoint.py"]
