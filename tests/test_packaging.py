"""Container image and Kubernetes manifests: what they name exists. `make manifests` checks them against the schemas."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from streamer.cluster.shard import Shard
from streamer.config.model import load

ROOT = Path(__file__).parents[1]
BASE = ROOT / "packaging/kubernetes/base"
HINTS = ROOT / "packaging/kubernetes/hints"
CONTAINERFILE = (ROOT / "packaging/Containerfile").read_text()


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


SET = read(BASE / "statefulset.yaml")
POD = SET["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def test_the_image_copies_files_that_exist_and_are_not_ignored() -> None:
    copied = [
        name for line in re.findall(r"^COPY (?!--from)(.+)$", CONTAINERFILE, re.MULTILINE) for name in line.split()[:-1]
    ]
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(allowed)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert (ROOT / "pipelines/florence2/models/tiny/model.safetensors").exists()


def test_image_and_pod_agree() -> None:
    assert re.search(r"^USER (\d+):\1$", CONTAINERFILE, re.MULTILINE)[1] == str(POD["securityContext"]["runAsUser"])  # type: ignore[index]
    folders = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    written = re.findall(r"(?:STATE_DIRECTORY|RUNTIME_DIRECTORY|XDG_CACHE_HOME)=(\S+)", CONTAINERFILE)
    assert [path for path in written if not any(f"{path}/".startswith(f"{folder}/") for folder in folders)] == []
    assert "/tmp" in folders
    assert f"EXPOSE {CONTAINER['ports'][0]['containerPort']}" in CONTAINERFILE
    (command,) = re.findall(r"^CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    assert CONTAINER["args"][-1] in command


def test_names_in_the_manifests_refer_to_each_other() -> None:
    kustomization = read(BASE / "kustomization.yaml")
    assert [name for name in kustomization["resources"] if not (BASE / name).exists()] == []
    volumes = {volume["name"] for volume in POD["volumes"]}
    claims = {claim["metadata"]["name"] for claim in SET["spec"]["volumeClaimTemplates"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == volumes | claims
    (config,) = [volume["configMap"]["name"] for volume in POD["volumes"] if "configMap" in volume]
    assert config == kustomization["configMapGenerator"][0]["name"]
    service = read(BASE / "service.yaml")
    assert SET["spec"]["serviceName"] == service["metadata"]["name"]
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert CONTAINER[probe]["exec"]["command"][1] in CONTAINERFILE
    assert service["spec"]["ports"][0]["targetPort"] in ports
    assert read(HINTS / "podmonitor.yaml")["spec"]["podMetricsEndpoints"][0]["port"] in ports
    (patch,) = read(ROOT / "packaging/kubernetes/gpu/kustomization.yaml")["patches"]
    gpu = read(ROOT / "packaging/kubernetes/gpu" / patch["path"])
    assert gpu["metadata"]["name"] == SET["metadata"]["name"]
    assert gpu["spec"]["template"]["spec"]["containers"][0]["name"] == CONTAINER["name"]


def health(port: int, token: str) -> int:
    text = (ROOT / "packaging/health.py").read_text().replace(":8080", f":{port}")
    environment = {**os.environ, "STREAMER_TOKEN": token}
    return subprocess.run([sys.executable, "-c", text, "/readyz"], env=environment, capture_output=True).returncode


def test_the_health_check_sends_the_token() -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.headers["Authorization"] == "Bearer right"
            self.send_response(200 if is_known and self.path == "/readyz" else 401)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert health(server.server_port, "right") == 0
            assert health(server.server_port, "wrong") == 1
        finally:
            server.shutdown()


def test_keda_starts_all_shards_or_none() -> None:
    scaled = read(HINTS / "scaledobject.yaml")["spec"]
    replicas = SET["spec"]["replicas"]
    assert scaled["minReplicaCount"] == 0
    assert scaled["maxReplicaCount"] == replicas
    assert [trigger["metadata"]["desiredReplicas"] for trigger in scaled["triggers"]] == [str(replicas)]


def test_the_config_is_valid_and_no_shard_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(re.findall(r"\$\{(\w+)\}", (BASE / "config.yaml").read_text())) - {"NAME"}:
        monkeypatch.setenv(name, "a-long-secret-of-the-test")
    config = load(BASE / "config.yaml")
    count = SET["spec"]["replicas"]
    assert all(Shard(index, count).streams(config.streams) for index in range(count))
    assert config.web is not None
    assert config.web.bind.port == CONTAINER["ports"][0]["containerPort"]


def test_the_pod_is_confined() -> None:
    context = CONTAINER["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert POD["securityContext"]["runAsNonRoot"]
    assert not POD["automountServiceAccountToken"]
