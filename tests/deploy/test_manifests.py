"""What a cluster would be given is valid, keeps to the restricted profile, and fits the service it runs."""

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

from percept.server.uvicorn_server import SLACK_S
from percept.settings import Settings
from tests.deploy.cluster import (
    COMPONENTS,
    DEPLOY,
    IMAGE,
    OVERLAYS,
    RENDERED,
    ROOT,
    Object,
    accept,
    containers,
    custom,
    environment,
    needs_kubectl,
    one,
    pods,
    rendered,
)

pytestmark = needs_kubectl

VERSIONS = ["1.33", "1.35", "1.37"]  # of Kubernetes
SCHEMAS = Path(__file__).parent / "schemas"  # of custom resources
SERVICE = [name for name in RENDERED if name.startswith("kubernetes")]


def test_every_overlay_and_every_component_is_rendered() -> None:
    assert {"base", "overlays/cpu", "overlays/gpu", "overlays/monitoring", "overlays/keda"} <= {
        name.removeprefix("kubernetes/") for name in OVERLAYS
    }
    assert len(COMPONENTS) == len(list((DEPLOY / "kubernetes" / "components").iterdir()))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_the_schemas_of_kubernetes(version: str) -> None:
    objects = {json.dumps(each): each for name in RENDERED for each in rendered(name)}  # each once
    kinds = set()
    for each in objects.values():
        if (SCHEMAS / f"{each['kind'].lower()}.json").exists():
            check_custom(each, version)
        else:
            kubernetes.validate(each, version, strict=True)
            kinds.add(each["kind"])
    assert len(kinds) == 8


def check_custom(each: Object, version: str) -> None:
    """A custom resource against the schema that its project publishes; pods in it against that of Kubernetes."""
    path = f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json"
    registry: Registry[Any] = Resource.from_contents(schema_contents(path, version)) @ Registry()
    schema = json.loads((SCHEMAS / f"{each['kind'].lower()}.json").read_text())
    jsonschema.Draft7Validator(schema, registry=registry).validate(each)


@pytest.mark.parametrize("kind", [path.stem for path in SCHEMAS.glob("*.json") if path.stem != "compose"])
def test_the_schemas_of_custom_resources_are_used_and_strict(kind: str) -> None:
    each = next(o for name in RENDERED for o in rendered(name) if o["kind"].lower() == kind)
    with pytest.raises(jsonschema.ValidationError, match="unknown"):
        check_custom(each | {"spec": each["spec"] | {"unknown": 1}}, VERSIONS[0])


def test_the_containers_of_a_serving_runtime_are_those_of_kubernetes() -> None:
    runtime = deepcopy(one("ServingRuntime", rendered("kserve")))
    runtime["spec"]["containers"][0]["unknown"] = 1
    with pytest.raises(jsonschema.ValidationError, match="unknown"):
        check_custom(runtime, VERSIONS[0])


@pytest.mark.parametrize("name", SERVICE)
def test_pods_keep_to_the_restricted_profile(name: str) -> None:
    for _, pod in pods(rendered(name)):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            check_restricted(container)
        kinds = {kind for volume in pod.get("volumes", ()) for kind in volume.keys() - {"name"}}
        assert kinds <= {"emptyDir", "persistentVolumeClaim"}


def test_a_serving_runtime_keeps_to_it_too() -> None:
    for container in one("ServingRuntime", rendered("kserve"))["spec"]["containers"]:
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
def test_a_pod_has_time_to_finish_what_it_was_asked(name: str) -> None:
    objects = rendered(name)
    ((_, pod),) = pods(objects)
    (container,) = pod["containers"]
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before >= 5  # until every proxy knows
    assert pod["terminationGracePeriodSeconds"] > before + settings(objects).deadline_s + SLACK_S


def test_a_pod_of_kserve_does_so_in_the_grace_that_kubernetes_gives_by_itself() -> None:
    (container,) = one("ServingRuntime", rendered("kserve"))["spec"]["containers"]
    told = {each["name"]: each["value"] for each in container["env"]}
    assert accept(told).deadline_s + SLACK_S < 30
    assert told["PERCEPT_THREADS"] == container["resources"]["requests"]["cpu"]
    assert container["image"] == f"{IMAGE}-cpu"


@pytest.mark.parametrize("name", SERVICE)
def test_an_update_takes_no_pod_away_before_another_is_there(name: str) -> None:
    deployment = one("Deployment", rendered(name))
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in deployment["spec"]  # the autoscaler's


@pytest.mark.parametrize("name", SERVICE)
def test_the_service_accepts_its_settings(name: str) -> None:
    objects = rendered(name)
    got = settings(objects)
    ((_, pod),) = pods(objects)
    (port,) = pod["containers"][0]["ports"]
    assert (got.host, got.port, port["name"]) == ("0.0.0.0", port["containerPort"], "http")
    assert str(got.models) == "/models"
    assert got.threads == int(pod["containers"][0]["resources"]["requests"]["cpu"])
    assert pod["enableServiceLinks"] is False  # or PERCEPT_PORT would be the address of the Service


@pytest.mark.parametrize(
    ("overlay", "device"), [("cpu", "cpu"), ("gpu", "cuda"), ("monitoring", "cpu"), ("keda", "cpu")]
)
def test_the_device_is_named_and_has_its_image(overlay: str, device: str) -> None:
    objects = rendered(f"kubernetes/overlays/{overlay}")
    ((_, pod),) = pods(objects)
    assert settings(objects).device == device
    assert pod["containers"][0]["image"] == f"{IMAGE}-{device}"
    gpus = pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0)
    assert gpus == (1 if device == "cuda" else 0)
    assert bool(pod.get("tolerations")) == (device == "cuda")


@pytest.mark.parametrize("name", SERVICE)
def test_every_reference_finds_what_it_names(name: str) -> None:
    objects = rendered(name)
    deployment = one("Deployment", objects)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    named = [port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]]
    service = one("Service", objects)
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


def test_nothing_goes_out_unless_models_are_fetched() -> None:
    for name in SERVICE:
        policies = [each["spec"] for each in rendered(name) if each["kind"] == "NetworkPolicy"]
        assert all("Egress" in policy["policyTypes"] for policy in policies)
        assert any("egress" in policy for policy in policies) == name.endswith("models-bucket"), name


@pytest.mark.parametrize("component", [name for name in COMPONENTS if "models" in name])
def test_models_lie_where_the_service_looks_and_cannot_be_written(component: str) -> None:
    objects = rendered(f"kubernetes/overlays/gpu {component}")
    ((_, pod),) = pods(objects)
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert mount == {"name": "models", "mountPath": str(settings(objects).models), "readOnly": True}
    assert [volume["name"] for volume in pod["volumes"]] == ["models"]
    for container in pod.get("initContainers", ()):  # what copies writes where the service reads
        assert {each["name"] for each in container["volumeMounts"]} == {"models"}
        assert container["volumeMounts"][0]["mountPath"] in (*container.get("command", ()), *container.get("args", ()))


def test_one_autoscaler_is_in_charge_and_both_know_the_same_bounds() -> None:
    hpa = one("HorizontalPodAutoscaler", rendered("kubernetes/overlays/monitoring"))["spec"]
    keda = rendered("kubernetes/overlays/keda")
    assert not [each for each in keda if each["kind"] == "HorizontalPodAutoscaler"]
    scaled = one("ScaledObject", keda)["spec"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (hpa["minReplicas"], hpa["maxReplicas"])
    assert scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    (metric,), (trigger,) = hpa["metrics"], scaled["triggers"]
    assert metric["pods"]["target"]["averageValue"] == f"{1000 * float(trigger['metadata']['threshold']):.0f}m"
    assert hpa["minReplicas"] >= 2  # one may be disrupted
    assert (trigger["metricType"], "fallback" in scaled) == ("Value", False)  # KEDA refuses the two together


def test_the_adapter_gives_the_metric_that_the_autoscaler_asks_for() -> None:
    values = yaml.safe_load((DEPLOY / "kubernetes/components/monitoring/adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    (metric,) = one("HorizontalPodAutoscaler", rendered("kubernetes/base"))["spec"]["metrics"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    asked = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="percept"')
    (trigger,) = one("ScaledObject", rendered("kubernetes/overlays/keda"))["spec"]["triggers"]
    assert "".join(trigger["metadata"]["query"].split()) == "".join(f"avg({asked})".split())


def test_the_overlay_that_the_documentation_shows_is_rendered() -> None:
    text = (DEPLOY / "README.md").read_text()
    (block,) = re.findall(r"```yaml\n# kustomization.yaml\n(.*?)```", text, re.DOTALL)
    own = yaml.safe_load(block)
    for key in ("resources", "components"):
        own[key] = [ROOT / path.removeprefix("percept/") for path in own[key]]
    objects = custom(own)
    ((_, pod),) = pods(objects)
    assert all(each["image"].startswith("registry.example.com/percept") for each in containers(pod))
    assert settings(objects).models == Path("/models")
    for each in objects:
        if not (SCHEMAS / f"{each['kind'].lower()}.json").exists():
            kubernetes.validate(each, VERSIONS[-1], strict=True)


def settings(objects: list[Object]) -> Settings:
    """The settings of the service as its container's environment gives them."""
    return accept(environment(objects))
