"""The manifests are valid, comply with the restricted profile, and fit the service that they run."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate as kubernetes
import pytest
import yaml
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from percept.server.uvicorn_server import SHUTDOWN_SLACK_S
from percept.settings import Settings
from tests.deploy.kustomize import (
    COMPONENTS,
    DEPLOY,
    IMAGE,
    OVERLAYS,
    RENDERED,
    ROOT,
    Object,
    containers,
    find_one,
    needs_kubectl,
    parse_settings,
    pods,
    read_environment,
    render,
    render_custom,
)

pytestmark = needs_kubectl

VERSIONS = ["1.33", "1.35", "1.37"]  # of Kubernetes
SCHEMAS = Path(__file__).parent / "schemas"  # of custom resources
SERVICE = [name for name in RENDERED if name.startswith("kubernetes")]


def test_every_overlay_and_component_is_rendered() -> None:
    assert {"base", "overlays/cpu", "overlays/gpu", "overlays/monitoring", "overlays/keda"} <= {
        name.removeprefix("kubernetes/") for name in OVERLAYS
    }
    assert len(COMPONENTS) == len(list((DEPLOY / "kubernetes" / "components").iterdir()))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(version: str) -> None:
    objects = {json.dumps(each): each for name in RENDERED for each in render(name)}  # without duplicates
    kinds = set()
    for each in objects.values():
        if (SCHEMAS / f"{each['kind'].lower()}.json").exists():
            check_custom(each, version)
        else:
            kubernetes.validate(each, version, strict=True)
            kinds.add(each["kind"])
    assert len(kinds) == 8


def check_custom(each: Object, version: str) -> None:
    """Validate a custom resource against the schema of its project, and pods in it against that of Kubernetes."""
    path = f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json"
    registry: Registry[Any] = Resource.from_contents(schema_contents(path, version)) @ Registry()
    schema = json.loads((SCHEMAS / f"{each['kind'].lower()}.json").read_text())
    jsonschema.Draft7Validator(schema, registry=registry).validate(each)


@pytest.mark.parametrize("kind", [path.stem for path in SCHEMAS.glob("*.json") if path.stem != "compose"])
def test_custom_resource_schema_is_strict(kind: str) -> None:
    each = next(o for name in RENDERED for o in render(name) if o["kind"].lower() == kind)
    with pytest.raises(jsonschema.ValidationError, match="unknown"):
        check_custom(each | {"spec": each["spec"] | {"unknown": 1}}, VERSIONS[0])


def test_serving_runtime_containers_are_validated() -> None:
    runtime = deepcopy(find_one("ServingRuntime", render("kserve")))
    runtime["spec"]["containers"][0]["unknown"] = 1
    with pytest.raises(jsonschema.ValidationError, match="unknown"):
        check_custom(runtime, VERSIONS[0])


@pytest.mark.parametrize("name", SERVICE)
def test_pods_comply_with_the_restricted_profile(name: str) -> None:
    for _, pod in pods(render(name)):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            check_restricted(container)
        kinds = {kind for volume in pod.get("volumes", ()) for kind in volume.keys() - {"name"}}
        assert kinds <= {"emptyDir", "persistentVolumeClaim"}


def test_serving_runtime_complies_with_the_restricted_profile() -> None:
    for container in find_one("ServingRuntime", render("kserve"))["spec"]["containers"]:
        check_restricted(container)
        assert container["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def check_restricted(container: Object) -> None:
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not context.get("privileged")
    assert not any("hostPort" in port for port in container.get("ports", ()))


@pytest.mark.parametrize("name", SERVICE)
def test_grace_period_covers_the_shutdown(name: str) -> None:
    objects = render(name)
    ((_, pod),) = pods(objects)
    (container,) = pod["containers"]
    delay = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert delay >= 5  # until every proxy has stopped sending
    assert pod["terminationGracePeriodSeconds"] > delay + settings(objects).deadline_s + SHUTDOWN_SLACK_S


def test_kserve_pod_stops_within_the_default_grace_period() -> None:
    (container,) = find_one("ServingRuntime", render("kserve"))["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert parse_settings(variables).deadline_s + SHUTDOWN_SLACK_S < 30
    assert variables["PERCEPT_THREADS"] == container["resources"]["requests"]["cpu"]
    assert container["image"] == f"{IMAGE}-cpu"


@pytest.mark.parametrize("name", SERVICE)
def test_rolling_update_keeps_every_pod_until_replaced(name: str) -> None:
    deployment = find_one("Deployment", render(name))
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in deployment["spec"]  # the autoscaler sets them


@pytest.mark.parametrize("name", SERVICE)
def test_settings_are_valid(name: str) -> None:
    objects = render(name)
    found = settings(objects)
    ((_, pod),) = pods(objects)
    (port,) = pod["containers"][0]["ports"]
    assert (found.host, found.port, port["name"]) == ("0.0.0.0", port["containerPort"], "http")
    assert str(found.models) == "/models"
    assert found.threads == int(pod["containers"][0]["resources"]["requests"]["cpu"])
    assert pod["enableServiceLinks"] is False  # otherwise PERCEPT_PORT would be the address of the Service


@pytest.mark.parametrize(
    ("overlay", "device"), [("cpu", "cpu"), ("gpu", "cuda"), ("monitoring", "cpu"), ("keda", "cpu")]
)
def test_overlay_sets_device_and_image(overlay: str, device: str) -> None:
    objects = render(f"kubernetes/overlays/{overlay}")
    ((_, pod),) = pods(objects)
    assert settings(objects).device == device
    assert pod["containers"][0]["image"] == f"{IMAGE}-{device}"
    gpus = pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0)
    assert gpus == (1 if device == "cuda" else 0)
    assert bool(pod.get("tolerations")) == (device == "cuda")


@pytest.mark.parametrize("name", SERVICE)
def test_every_reference_is_resolved(name: str) -> None:
    objects = render(name)
    deployment = find_one("Deployment", objects)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    named = [port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]]
    service = find_one("Service", objects)
    assert service["spec"]["selector"].items() <= labels.items()
    assert [port["targetPort"] for port in service["spec"]["ports"]] == named
    for policy in (each for each in objects if each["kind"] in ("NetworkPolicy", "PodDisruptionBudget")):
        selector = policy["spec"].get("podSelector") or policy["spec"]["selector"]
        assert selector["matchLabels"].items() <= labels.items()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert deployment["spec"]["template"]["spec"]["containers"][0][probe]["httpGet"]["port"] in named
    claims = {each["metadata"]["name"] for each in objects if each["kind"] == "PersistentVolumeClaim"}
    for volume in deployment["spec"]["template"]["spec"].get("volumes", ()):
        assert volume.get("persistentVolumeClaim", {}).get("claimName") in {*claims, None}
    assert {each["metadata"]["namespace"] for each in objects} == {"percept"}
    for monitor in (each for each in objects if each["kind"] == "ServiceMonitor"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        ports = [each["name"] for each in service["spec"]["ports"]]
        assert [each["port"] for each in monitor["spec"]["endpoints"]] == ports


def test_egress_is_denied_except_to_fetch_models() -> None:
    for name in SERVICE:
        policies = [each["spec"] for each in render(name) if each["kind"] == "NetworkPolicy"]
        assert all("Egress" in policy["policyTypes"] for policy in policies)
        assert any("egress" in policy for policy in policies) == name.endswith("models-bucket"), name


@pytest.mark.parametrize("component", [name for name in COMPONENTS if "models" in name])
def test_models_are_mounted_read_only(component: str) -> None:
    objects = render(f"kubernetes/overlays/gpu {component}")
    ((_, pod),) = pods(objects)
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert mount == {"name": "models", "mountPath": str(settings(objects).models), "readOnly": True}
    assert [volume["name"] for volume in pod["volumes"]] == ["models"]
    for container in pod.get("initContainers", ()):  # copies into the volume that the service reads
        assert {each["name"] for each in container["volumeMounts"]} == {"models"}
        assert container["volumeMounts"][0]["mountPath"] in (*container.get("command", ()), *container.get("args", ()))


def test_hpa_and_keda_are_exclusive_and_equal() -> None:
    hpa = find_one("HorizontalPodAutoscaler", render("kubernetes/overlays/monitoring"))["spec"]
    keda = render("kubernetes/overlays/keda")
    assert not [each for each in keda if each["kind"] == "HorizontalPodAutoscaler"]
    scaled = find_one("ScaledObject", keda)["spec"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (hpa["minReplicas"], hpa["maxReplicas"])
    assert scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    (metric,), (trigger,) = hpa["metrics"], scaled["triggers"]
    assert metric["pods"]["target"]["averageValue"] == f"{1000 * float(trigger['metadata']['threshold']):.0f}m"
    assert hpa["minReplicas"] >= 2  # one pod may be disrupted
    assert (trigger["metricType"], "fallback" in scaled) == ("Value", False)  # KEDA refuses `fallback` with this type


def test_adapter_provides_the_metric_of_the_autoscaler() -> None:
    values = yaml.safe_load((DEPLOY / "kubernetes/components/monitoring/adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    (metric,) = find_one("HorizontalPodAutoscaler", render("kubernetes/base"))["spec"]["metrics"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="percept"')
    (trigger,) = find_one("ScaledObject", render("kubernetes/overlays/keda"))["spec"]["triggers"]
    assert "".join(trigger["metadata"]["query"].split()) == "".join(f"avg({query})".split())


def test_overlay_in_the_documentation_is_valid() -> None:
    text = (DEPLOY / "README.md").read_text()
    (block,) = re.findall(r"```yaml\n# kustomization.yaml\n(.*?)```", text, re.DOTALL)
    kustomization = yaml.safe_load(block)
    for key in ("resources", "components"):
        kustomization[key] = [ROOT / path.removeprefix("percept/") for path in kustomization[key]]
    objects = render_custom(kustomization)
    ((_, pod),) = pods(objects)
    assert all(each["image"].startswith("registry.example.com/percept") for each in containers(pod))
    assert settings(objects).models == Path("/models")
    for each in objects:
        if not (SCHEMAS / f"{each['kind'].lower()}.json").exists():
            kubernetes.validate(each, VERSIONS[-1], strict=True)


def settings(objects: list[Object]) -> Settings:
    """Return the settings of the service from the environment of its container."""
    return parse_settings(read_environment(objects))
