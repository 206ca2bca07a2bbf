"""The KServe SDK against a running daemon: what its users and KServe's own end-to-end tests call.

Usage: KUBECONFIG=... python credentials_and_services.py
"""

import base64
import json
import os
import tempfile
import time

from kserve import KServeClient, V1beta1InferenceService, V1beta1InferenceServiceSpec
from kserve import V1alpha1InferenceGraph, V1alpha1InferenceGraphSpec, V1alpha1InferenceRouter, V1alpha1InferenceStep
from kserve import V1alpha1ModelSpec, V1alpha1TrainedModel, V1alpha1TrainedModelSpec
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
    replaced = replace(kserve, 1)
    assert replaced["spec"]["predictor"]["minReplicas"] == 1, replaced
    kserve.wait_isvc_ready(NAME, namespace=NAMESPACE, watch=True, timeout_seconds=60)


def replace(kserve, replicas):
    """A status that changes between the SDK's read and its write is a conflict, as on a cluster."""
    for _ in range(9):
        try:
            return kserve.replace(NAME, service(replicas), namespace=NAMESPACE)
        except RuntimeError as error:
            if "(409)" not in str(error):
                raise
    return kserve.replace(NAME, service(replicas), namespace=NAMESPACE)


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


def graphs(kserve):
    step = V1alpha1InferenceStep(service_name=NAME)
    router = V1alpha1InferenceRouter(router_type="Sequence", steps=[step])
    graph = V1alpha1InferenceGraph(
        api_version=constants.KSERVE_V1ALPHA1,
        kind=constants.KSERVE_KIND_INFERENCEGRAPH,
        metadata=client.V1ObjectMeta(name="chain", namespace=NAMESPACE),
        spec=V1alpha1InferenceGraphSpec(nodes={"root": router}),
    )
    kserve.create_inference_graph(graph)
    found = kserve.get_inference_graph("chain", NAMESPACE)
    assert found["spec"]["nodes"]["root"]["steps"][0]["serviceName"] == NAME, found
    kserve.delete_inference_graph("chain", NAMESPACE)
    gone(lambda: kserve.get_inference_graph("chain", NAMESPACE))


def trained_models(kserve):
    source = V1alpha1ModelSpec(storage_uri="gs://bucket/model", framework="sklearn", memory="1Gi")
    model = V1alpha1TrainedModel(
        api_version=constants.KSERVE_V1ALPHA1,
        kind=constants.KSERVE_KIND_TRAINEDMODEL,
        metadata=client.V1ObjectMeta(name="one", namespace=NAMESPACE),
        spec=V1alpha1TrainedModelSpec(inference_service=NAME, model=source),
    )
    kserve.create_trained_model(model, NAMESPACE)
    kserve.delete_trained_model("one", NAMESPACE)


def refusals(kserve):
    wrong = service(3)
    wrong.metadata.name = "1wrong"
    try:
        kserve.create(wrong, namespace=NAMESPACE)
        raise AssertionError("a name that KServe refuses was taken")
    except RuntimeError as error:
        assert "admission webhook" in str(error) and "403" in str(error), error
    try:
        kserve.create(service(1), namespace=NAMESPACE)
        raise AssertionError("a second service of one name was taken")
    except RuntimeError as error:
        assert "AlreadyExists" in str(error), error


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
        s3 = os.path.join(folder, "s3")
        with open(s3, "w") as file:
            # The SDK sends the keys as they are where Kubernetes wants base64.
            key, secret = (base64.b64encode(text).decode() for text in (b"minio", b"minio123"))
            file.write(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
        kserve.set_credentials(
            storage_type="s3", namespace=NAMESPACE, credentials_file=s3, service_account="s3-robot",
            s3_endpoint="s3.example.com", s3_region="us-west-2", s3_use_https="1", s3_verify_ssl="0",
        )
        azure = os.path.join(folder, "azure.json")
        with open(azure, "w") as file:
            fields = ("clientId", "clientSecret", "subscriptionId", "tenantId")
            json.dump({field: base64.b64encode(field.encode()).decode() for field in fields}, file)
        kserve.set_credentials(storage_type="Azure", namespace=NAMESPACE, credentials_file=azure)
    name = core.read_namespaced_service_account("s3-robot", NAMESPACE).secrets[0].name
    secret = core.read_namespaced_secret(name, NAMESPACE)
    assert base64.b64decode(secret.data["AWS_ACCESS_KEY_ID"]) == b"minio", secret.data
    assert secret.metadata.annotations[constants.KSERVE_GROUP + "/s3-endpoint"] == "s3.example.com"
    name = core.read_namespaced_service_account("kserve-service-credentials", NAMESPACE).secrets[0].name
    assert "AZURE_CLIENT_ID" in core.read_namespaced_secret(name, NAMESPACE).data
    secrets = core.read_namespaced_service_account("robot", NAMESPACE).secrets
    assert len(secrets) == 2 and secrets[1].name == first, secrets
    secret = core.read_namespaced_secret(secrets[0].name, NAMESPACE)
    assert secrets[0].name.startswith("kserve-secret-"), secrets
    assert "gcloud-application-credentials.json" in secret.data, secret


def deletion(kserve):
    kserve.delete(NAME, namespace=NAMESPACE)
    gone(lambda: kserve.get(NAME, namespace=NAMESPACE))


def gone(get):
    for _ in range(50):
        try:
            get()
        except RuntimeError:
            return
        time.sleep(0.1)
    raise AssertionError("it is still there")


def main():
    config.load_kube_config()
    kserve = KServeClient(config_file=os.environ["KUBECONFIG"])
    client.CoreV1Api().create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    services(kserve)
    workloads()
    for step in (graphs, trained_models, refusals, credentials, deletion):
        step(kserve)
    client.CoreV1Api().delete_namespace(NAMESPACE)
    print("every call answered")


main()
