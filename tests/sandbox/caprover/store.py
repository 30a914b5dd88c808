"""What CapRover remembers: app definitions and registries, kept in one JSON file."""

from __future__ import annotations

import copy
import json
import os
import re
import secrets
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

NETWORK = "captain-overlay-network"
DEFINITION_FILE = "./captain-definition"
BAD_OVERRIDE = "serviceUpdateOverride must be either a valid JSON object starting with { or an equivalent yaml"
BAD_NAME = "App Name is not allowed. Only lowercase letters, numbers and single hyphens are allowed"


class Declined(Exception):
    """An error that CapRover words itself: HTTP 200 with its own status."""

    def __init__(self, status: int, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.description = description


def now() -> str:
    """The time as JavaScript writes it in JSON."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_override(text: str) -> Json:
    """The object in a serviceUpdateOverride (JSON or YAML); empty text is an empty one. Declined when it is none."""
    if not text.strip():
        return {}
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Declined(1110, BAD_OVERRIDE) from error
    if not isinstance(value, dict):
        raise Declined(1110, BAD_OVERRIDE)
    return value


class Store:
    """Definitions and registries; each change is on disk when the call returns. Safe for several threads."""

    def __init__(self, path: Path, placeholder_image: str) -> None:
        self._path = path
        self._placeholder = placeholder_image
        self._lock = threading.RLock()
        self._data: Json = {"apps": {}, "registries": [], "defaultPushRegistryId": None}
        if path.exists():
            self._data = json.loads(path.read_text())

    @contextmanager
    def _change(self) -> Iterator[Json]:
        """Hands the data out for a change and saves it after; an error inside keeps the old data."""
        with self._lock:
            data = copy.deepcopy(self._data)
            yield data
            new = self._path.with_suffix(".new")
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(data, file, indent=1)
            new.replace(self._path)
            self._data = data

    # Apps

    def names(self) -> list[str]:
        with self._lock:
            return list(self._data["apps"])

    def app(self, name: str) -> Json:
        """A copy of the app's definition; Declined when there is none."""
        with self._lock:
            return copy.deepcopy(self._find(self._data, name))

    @staticmethod
    def _find(data: Json, name: str) -> Json:
        if name not in data["apps"]:
            raise Declined(1000, f"App ({name}) could not be found. Make sure that you have created the app.")
        app: Json = data["apps"][name]
        return app

    def register(self, name: str, *, persistent: bool, legacy: bool) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) > 50:
            raise Declined(1104, BAD_NAME)
        with self._change() as data:
            if name in data["apps"]:
                raise Declined(1103, "App Name already exists. Please use a different name")
            version = {"version": 0, "timeStamp": now(), "deployedImageName": self._placeholder, "gitHash": ""}
            data["apps"][name] = {
                "hasPersistentData": persistent,
                "projectId": "",
                "description": "",
                "instanceCount": 1,
                "captainDefinitionRelativeFilePath": DEFINITION_FILE,
                "networks": [NETWORK],
                "envVars": [],
                "volumes": [],
                "ports": [],
                "tags": [],
                "versions": [version],
                "deployedVersion": 0,
                "notExposeAsWebApp": False,
                "customDomain": [],
                "hasDefaultSubDomainSsl": False,
                "redirectDomain": "",
                "forceSsl": False,
                "websocketSupport": False,
                "isLegacyAppName": legacy,
            }

    def update(self, name: str, body: Mapping[str, Any], *, node_id: str) -> None:
        """Save what the dashboard's Save & Update sends: what is omitted is wiped; versions are CapRover's own."""
        override = str(body.get("serviceUpdateOverride") or "")
        parse_override(override)
        token = body.get("appDeployTokenConfig") or {}
        with self._change() as data:
            app = self._find(data, name)
            app |= {
                "projectId": str(body.get("projectId") or ""),
                "description": str(body.get("description") or ""),
                "instanceCount": int(body.get("instanceCount") or 0),
                "captainDefinitionRelativeFilePath": body.get("captainDefinitionRelativeFilePath") or DEFINITION_FILE,
                "envVars": [{"key": var["key"], "value": var["value"]} for var in body.get("envVars") or []],
                "volumes": list(body.get("volumes") or []),
                "ports": list(body.get("ports") or []),
                "tags": list(body.get("tags") or []),
                "notExposeAsWebApp": bool(body.get("notExposeAsWebApp")),
                "redirectDomain": str(body.get("redirectDomain") or ""),
                "forceSsl": bool(body.get("forceSsl")),
                "websocketSupport": bool(body.get("websocketSupport")),
                "containerHttpPort": int(body.get("containerHttpPort") or 80),
                "nodeId": node_id,
                "customNginxConfig": str(body.get("customNginxConfig") or ""),
                "preDeployFunction": str(body.get("preDeployFunction") or ""),
                "serviceUpdateOverride": override,
                "appDeployTokenConfig": {"enabled": False},
            }
            if token.get("enabled"):
                made = token.get("appDeployToken") or secrets.token_hex(32)
                app["appDeployTokenConfig"] = {"enabled": True, "appDeployToken": made}

    def delete(self, name: str) -> None:
        with self._change() as data:
            self._find(data, name)
            del data["apps"][name]

    def new_version(self, name: str) -> int:
        with self._change() as data:
            versions = self._find(data, name)["versions"]
            number: int = versions[-1]["version"] + 1
            versions.append({"version": number, "timeStamp": now()})
            return number

    def set_deployed(self, name: str, version: int, image: str, git_hash: str) -> None:
        with self._change() as data:
            app = self._find(data, name)
            entry = next(entry for entry in app["versions"] if entry["version"] == version)
            entry |= {"deployedImageName": image, "gitHash": git_hash}
            app["deployedVersion"] = version

    # Registries

    def registries(self) -> Json:
        """The answer to GET registries, passwords in clear; no default before there is one."""
        with self._lock:
            answer: Json = {"registries": copy.deepcopy(self._data["registries"])}
            if self._data["defaultPushRegistryId"]:
                answer["defaultPushRegistryId"] = self._data["defaultPushRegistryId"]
            return answer

    def add_registry(self, *, user: str, password: str, domain: str, prefix: str) -> None:
        """The first one becomes the default push registry."""
        with self._change() as data:
            entry = {
                "id": str(uuid.uuid4()),
                "registryDomain": domain,
                "registryImagePrefix": prefix,
                "registryUser": user,
                "registryPassword": password,
                "registryType": "REMOTE_REG",
            }
            data["registries"].append(entry)
            data["defaultPushRegistryId"] = data["defaultPushRegistryId"] or entry["id"]

    def delete_registry(self, registry_id: str) -> None:
        with self._change() as data:
            if registry_id == data["defaultPushRegistryId"]:
                raise Declined(1110, "Cannot remove the default push. First change the default push.")
            kept = [entry for entry in data["registries"] if entry["id"] != registry_id]
            if len(kept) == len(data["registries"]):
                raise Declined(1111, "Registry not found")
            data["registries"] = kept

    def set_default_registry(self, registry_id: str) -> None:
        """An empty id: no default."""
        with self._change() as data:
            if registry_id and registry_id not in [entry["id"] for entry in data["registries"]]:
                raise Declined(1111, "Registry not found")
            data["defaultPushRegistryId"] = registry_id or None

    def credentials_for(self, image: str) -> Json | None:
        """Docker's auth object of the registry whose `domain/prefix/` begins the image's name."""
        with self._lock:
            for entry in self._data["registries"]:
                parts = [entry["registryDomain"], entry["registryImagePrefix"]]
                if image.startswith("/".join(part for part in parts if part) + "/"):
                    return auth_object(entry["registryUser"], entry["registryPassword"], entry["registryDomain"])
        return None


def auth_object(user: str, password: str, domain: str) -> Json:
    return {"username": user, "password": password, "serveraddress": domain, "email": "captain@example.com"}
