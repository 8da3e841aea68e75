"""The manifests, without a cluster: they fit Kubernetes's own schemas, and hang together."""

from pathlib import Path

import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
OBJECTS = [one for path in FILES for one in yaml.safe_load_all(path.read_text())]
# The oldest version with gRPC probes, and the newest that is known.
VERSIONS = ("1.27", kubernetes_validate.latest_version())


def of(kind, name="ntm-serve"):
    (found,) = [one for one in OBJECTS if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def titles(one):
    return f"{one['kind']}-{one['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", OBJECTS, ids=titles)
def test_every_manifest_fits_the_schema(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_manifest_with_a_fault_would_be_found():
    wrong = of("PodDisruptionBudget") | {"spec": {"maxUnavailble": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def pods():
    return [one for one in OBJECTS if one["kind"] in ("Deployment", "StatefulSet")]


@pytest.mark.parametrize("workload", pods(), ids=titles)
def test_every_container_is_hardened_and_labels_meet(workload):
    spec, template = workload["spec"], workload["spec"]["template"]
    assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert template["spec"]["automountServiceAccountToken"] is False
    for container in template["spec"]["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
        }  # fmt: skip
        assert container["resources"]["limits"]["memory"]
        volumes = {one["name"] for one in template["spec"].get("volumes", ())}
        volumes |= {one["metadata"]["name"] for one in spec.get("volumeClaimTemplates", ())}
        assert {one["name"] for one in container["volumeMounts"]} == volumes


def test_probes_ask_for_what_they_decide():
    (server,) = of("Deployment")["spec"]["template"]["spec"]["containers"]
    assert server["readinessProbe"]["grpc"] == {"port": 8001}
    assert server["livenessProbe"]["grpc"] == {"port": 8001, "service": "liveness"}


def test_a_pod_is_given_the_time_that_its_drain_takes():
    pod = of("Deployment")["spec"]["template"]["spec"]
    pause_s = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    drain_s = float(of("ConfigMap")["data"]["NTM_SERVE_DRAIN_S"])
    assert pause_s + drain_s < pod["terminationGracePeriodSeconds"]


def test_services_and_budgets_select_pods_that_there_are():
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in pods()]
    for one in OBJECTS:
        if one["kind"] in ("Service", "PodDisruptionBudget"):
            selector = one["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= those.items() for those in labels), titles(one)


def test_the_autoscalers_metrics_are_those_that_the_adapter_gives():
    rules = yaml.safe_load((FOLDER / "prometheus-adapter" / "values.yaml").read_text())["rules"]["custom"]
    wanted = {one["pods"]["metric"]["name"] for one in of("HorizontalPodAutoscaler")["spec"]["metrics"]}
    assert {rule["name"]["as"] for rule in rules} == wanted
