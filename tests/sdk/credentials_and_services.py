"""The KServe SDK against a running daemon: what its users and KServe's own end-to-end tests call.

Usage: KUBECONFIG=... python credentials_and_services.py
"""

import json
import os
import tempfile
import time

from kserve import KServeClient, V1beta1InferenceService, V1beta1InferenceServiceSpec
from kserve import V1beta1ModelFormat, V1beta1ModelSpec, V1beta1PredictorSpec, constants
from kubernetes import client, config, watch

NAMESPACE = "sdk"
NAME = "sklearn-iris"


def service(replicas):
    model = V1beta1ModelSpec(
        model_format=V1beta1ModelFormat(name="sklearn"), storage_uri=os.environ["MODEL_URI"]
    )
    return V1beta1InferenceService(
        api_version=constants.KSERVE_V1BETA1,
        kind=constants.KSERVE_KIND_INFERENCESERVICE,
        metadata=client.V1ObjectMeta(name=NAME, namespace=NAMESPACE),
        spec=V1beta1InferenceServiceSpec(
            predictor=V1beta1PredictorSpec(min_replicas=replicas, model=model)
        ),
    )


def services(kserve):
    created = kserve.create(service(1), namespace=NAMESPACE)
    assert created["metadata"]["generation"] == 1, created
    kserve.wait_isvc_ready(NAME, namespace=NAMESPACE, timeout_seconds=60, polling_interval=1)
    assert kserve.is_isvc_ready(NAME, namespace=NAMESPACE)
    found = kserve.get(NAME, namespace=NAMESPACE)
    assert found["status"]["url"].startswith("http://"), found
    assert any(item["metadata"]["name"] == NAME for item in kserve.get(namespace=NAMESPACE)["items"])
    patched = kserve.patch(NAME, service(2), namespace=NAMESPACE)
    assert patched["spec"]["predictor"]["minReplicas"] == 2, patched
    replaced = kserve.replace(NAME, service(1), namespace=NAMESPACE)
    assert replaced["spec"]["predictor"]["minReplicas"] == 1, replaced
    kserve.wait_isvc_ready(NAME, namespace=NAMESPACE, watch=True, timeout_seconds=60)


def workloads():
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    pods = core.list_namespaced_pod(
        NAMESPACE, label_selector=f"serving.kserve.io/inferenceservice={NAME}"
    )
    assert pods.items and pods.items[0].status.container_statuses, pods
    core.read_namespaced_pod_log(pods.items[0].metadata.name, NAMESPACE)
    deployment = apps.read_namespaced_deployment(f"{NAME}-predictor", NAMESPACE)
    assert deployment.spec.template.metadata.labels["component"] == "predictor"
    assert core.list_namespaced_service(NAMESPACE).items
    seen = [event["type"] for event in watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, timeout_seconds=1)]
    assert "ADDED" in seen, seen
    custom = client.CustomObjectsApi()
    try:
        custom.list_namespaced_custom_object("serving.knative.dev", "v1", NAMESPACE, "services")
        raise AssertionError("Knative is not served")
    except client.ApiException as error:
        assert error.status == 404, error


def credentials(kserve):
    core = client.CoreV1Api()
    with tempfile.TemporaryDirectory() as folder:
        gcs = os.path.join(folder, "gcs.json")
        with open(gcs, "w") as file:
            json.dump({"type": "service_account"}, file)
        kserve.set_credentials(
            storage_type="gcs", namespace=NAMESPACE, credentials_file=gcs, service_account="robot"
        )
        first = core.read_namespaced_service_account("robot", NAMESPACE).secrets[0].name
        kserve.set_credentials(
            storage_type="gcs", namespace=NAMESPACE, credentials_file=gcs, service_account="robot"
        )
    secrets = core.read_namespaced_service_account("robot", NAMESPACE).secrets
    assert len(secrets) == 2 and secrets[1].name == first, secrets
    secret = core.read_namespaced_secret(secrets[0].name, NAMESPACE)
    assert secrets[0].name.startswith("kserve-secret-"), secrets
    assert "gcloud-application-credentials.json" in secret.data, secret


def deletion(kserve):
    kserve.delete(NAME, namespace=NAMESPACE)
    for _ in range(50):
        try:
            kserve.get(NAME, namespace=NAMESPACE)
        except RuntimeError:
            return
        time.sleep(0.1)
    raise AssertionError("the service is still there")


def main():
    config.load_kube_config()
    kserve = KServeClient(config_file=os.environ["KUBECONFIG"])
    client.CoreV1Api().create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    for step in (lambda: services(kserve), workloads, lambda: credentials(kserve), lambda: deletion(kserve)):
        step()
    client.CoreV1Api().delete_namespace(NAMESPACE)
    print("every call answered")


main()
