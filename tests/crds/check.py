"""Checks what `export` and `schema` print: PROGRAM CRDS_FOLDER EXAMPLES_FOLDER.

Every example must be valid by the JSON Schema for editors, and every exported object by KServe's own CRD schema, with
unknown fields refused as `kubectl apply` with strict validation does. Needs jsonschema and PyYAML.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import jsonschema
import yaml


def run(program, home, *words):
    return subprocess.run([program, "--home", home, *words], capture_output=True, text=True)


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def strict(schema):
    """An OpenAPI 3.0 schema of Kubernetes in the words of JSON Schema."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    either = schema.get("x-kubernetes-int-or-string")
    said = {"type": ["integer", "string"]} if either else {}
    for word, value in schema.items():
        if word.startswith("x-kubernetes") or (word == "anyOf" and either):
            continue
        said[word] = {name: strict(field) for name, field in value.items()} if word == "properties" else strict(value)
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in schema and not is_open:
        said["additionalProperties"] = False
    return said


def crd_schemas(folder):
    found = {}
    for path in folder.glob("*.yaml"):
        for crd in documents(path):
            for version in crd["spec"]["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                # The API server checks metadata itself.
                schema["properties"]["metadata"] = {}
                found[f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]] = schema
    return found


def main(program, crds, examples):
    problems = []

    def check(what, schema, document):
        for error in jsonschema.Draft202012Validator(schema).iter_errors(document):
            problems.append(f"{what}: {error.json_path}: {error.message[:200]}")

    with tempfile.TemporaryDirectory() as home:
        editor = json.loads(run(program, home, "schema").stdout)
        files = sorted(pathlib.Path(examples).glob("*.yaml"))
        for path in files:
            for document in documents(path):
                check(path.name, editor, document)
        typo = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "x"}}
        typo["spec"] = {"predictor": {"minReplicsa": 1}}
        if not list(jsonschema.Draft202012Validator(editor).iter_errors(typo)):
            problems.append("a typo is not noticed by the schema for editors")
        flags = [word for path in files for word in ("-f", str(path))]
        exported = run(program, home, "export", *flags)
        schemas = crd_schemas(pathlib.Path(crds))
        bundle = list(yaml.safe_load_all(exported.stdout))
        for document in bundle:
            schema = schemas.get((document["apiVersion"], document["kind"]))
            if schema:
                check(f"{document['kind']} {document['metadata']['name']}", schema, document)
    if not bundle:
        problems.append(f"nothing was exported: {exported.stderr}")
    print("\n".join(problems) or f"{len(files)} examples, {len(bundle)} exported objects: valid")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
