"""The optional HTTP question that a new version has to answer rightly (verify-url)."""

from __future__ import annotations

import requests

TIMEOUT = 5.0


def ask(url: str, status: int) -> str:
    """Empty if the URL answers with this status (redirects are not followed), else what came instead."""
    try:
        with requests.get(url, timeout=TIMEOUT, allow_redirects=False, stream=True) as answer:
            return "" if answer.status_code == status else f"{url} answers {answer.status_code} instead of {status}"
    except requests.RequestException as error:
        return f"{url} does not answer: {type(error).__name__}"
