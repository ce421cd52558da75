"""The files in `clusters/`, checked without a cluster."""

import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

CLUSTERS = Path(__file__).parents[1] / "clusters"
KUBERNETES = "1.31"
SCRIPTS = sorted(CLUSTERS.glob("*.sh"))

POD = {"type": "object", "required": ["template"]}  # the template itself is checked as Kubernetes's own PodTemplate
GROUP = {"rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}}, "template": {}}
RAY_CLUSTER = {
    "type": "object",
    "additionalProperties": False,
    "required": ["rayVersion", "authOptions", "headGroupSpec"],
    "properties": {
        "rayVersion": {"pattern": r"^2\.\d+\.\d+$"},
        "authOptions": {
            "type": "object",
            "additionalProperties": False,
            "required": ["mode"],
            "properties": {"mode": {"const": "token"}, "secretName": {"type": "string"}},
        },
        "enableInTreeAutoscaling": {"type": "boolean"},
        "headGroupSpec": {**POD, "additionalProperties": False, "properties": GROUP},
        "workerGroupSpecs": {
            "type": "array",
            "items": {
                **POD,
                "additionalProperties": False,
                "required": ["groupName", "template"],
                "properties": {
                    **GROUP,
                    "groupName": {"type": "string"},
                    **{name: {"type": "integer"} for name in ("replicas", "minReplicas", "maxReplicas")},
                },
            },
        },
    },
}
RAY_JOB = {
    "type": "object",
    "additionalProperties": False,
    "required": ["entrypoint", "rayClusterSpec"],
    "properties": {
        "entrypoint": {"type": "string", "pattern": "^strata "},
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": {"type": "integer"},
        "rayClusterSpec": RAY_CLUSTER,
    },
}
"""Those of KubeRay's keys (ray.io/v1) that the manifests use; no package carries its schema."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTERS / name).read_text()))


@pytest.mark.parametrize("file", sorted(CLUSTERS.iterdir()), ids=lambda file: file.name)
def test_each_opens_with_the_command_that_uses_it(file: Path) -> None:
    opening = "\n".join(
        line for line in file.read_text().splitlines()[:20] if line.startswith("#") and not line.startswith("#!")
    )
    assert f"clusters/{file.name}" in opening
    assert re.search(r"^#     \S", opening, re.MULTILINE), "no command"


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_ray_takes_the_files_for_ray_up(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents(name)
    validate_config(prepare_config(config))
    broken = {**config, "available_node_types": {"head": {"node_config": {}}}}
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(broken))
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        starting = next(command for command in commands if "ray start" in command)
        assert "RAY_AUTH_MODE=token" in starting
        assert "0.0.0.0" not in starting
    spot = yaml.safe_dump(config["available_node_types"]["gpu"]["node_config"])
    assert "spot" in spot.lower()


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_kubernetes_takes_the_manifests(name: str) -> None:
    for document in documents(name):
        if document["apiVersion"] != "ray.io/v1":
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
            continue
        jsonschema.validate(document["spec"], {"RayCluster": RAY_CLUSTER, "RayJob": RAY_JOB}[document["kind"]])
        cluster = document["spec"].get("rayClusterSpec", document["spec"])
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}}
            kubernetes_validate.validate({**pod, "template": group["template"]}, KUBERNETES, strict=True)


def test_a_wrong_manifest_would_be_noticed() -> None:
    cluster = next(d for d in documents("kuberay-cluster.yaml") if d["kind"] == "RayCluster")["spec"]
    for wrong in ({"authOptions": {"mode": "tokn"}}, {"headGroupSpecs": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**cluster, **wrong}, RAY_CLUSTER)


def test_the_mlflow_server_answers_to_the_name_that_runs_call_it_by() -> None:
    manifests = documents("kuberay-cluster.yaml")
    server = next(d for d in manifests if d["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"][0]
    (allowed,) = (word for word in server["command"] if word.startswith("--allowed-hosts="))
    hosts = allowed.removeprefix("--allowed-hosts=").split(",")
    called = set(re.findall(r"http://(mlflow:\d+)", yaml.safe_dump_all(manifests)))
    assert called == {"mlflow:5000"}
    assert called <= set(hosts)
    (service,) = (d for d in manifests if d["kind"] == "Service")
    assert service["metadata"]["name"] == "mlflow"
    assert service["spec"]["ports"] == [{"port": 5000}]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    help = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert help.returncode == 2, "it should say how it is used"
    assert help.stderr
