//! What the fields people write most are for: the descriptions of `kubectl explain`.

/// Returns what a struct is, by its schema's name.
pub fn about(owner: &str) -> Option<&'static str> {
    Some(match owner {
        "InferenceService" => "A model (or a chain of transformer, predictor and explainer) that answers requests.",
        "InferenceServiceSpec" => "What should be served.",
        "PredictorSpec" => "Runs the model. Name it with `model`, or bring your own container under `containers`.",
        "TransformerSpec" => "Changes requests before, and answers after, the predictor.",
        "ExplainerSpec" => "Explains answers of the predictor.",
        "ModelSpec" => "A model: its format, where its files are, and how it is run.",
        "PredictorExtensionSpec" => "The older form of `model`, with the format as the key.",
        "ModelFormat" => "The format a model was saved in.",
        "ServingRuntime" => "How models of some formats are served, for the InferenceServices of one namespace.",
        "ClusterServingRuntime" => {
            "How models of some formats are served, for the InferenceServices of every namespace."
        }
        "InferenceGraph" => "Several services behind one address.",
        "GraphNode" => "Steps, and how a request goes through them.",
        "GraphStep" => "Where a request goes next: a node, a service or an address.",
        "TrainedModel" => "A model that a server of several models loads.",
        "ClusterStorageContainer" => "A container that fetches models from places of its own.",
        "LocalModelCache" | "LocalModelNamespaceCache" => "A model that is fetched before it is needed, and kept.",
        "LLMInferenceService" => "A large language model that answers requests.",
        "ServingRuntimeSpec" => "Which formats are served, and by which containers.",
        "SupportedModelFormat" => "A format that is served, and whether it is chosen without being named.",
        "Container" => "One container: image, command, environment, resources, probes.",
        _ => return None,
    })
}

/// Returns what a field is for.
pub fn about_field(owner: &str, field: &str) -> Option<&'static str> {
    let component = matches!(owner, "PredictorSpec" | "TransformerSpec" | "ExplainerSpec");
    let model = matches!(owner, "ModelSpec" | "PredictorExtensionSpec");
    let container = owner == "Container" || model;
    Some(match (owner, field) {
        (_, "apiVersion") => "Version of the schema this object is written in.",
        (_, "kind") => "What this object is.",
        ("InferenceService" | "ServingRuntime" | "ClusterServingRuntime" | "Secret" | "ConfigMap", "metadata") => {
            "Name, namespace, labels and annotations."
        }
        (_, "spec") => "What is wanted.",
        (_, "status") => "What there is; written by kserve-local.",
        ("InferenceServiceSpec", "predictor") => "Runs the model. Required.",
        ("InferenceServiceSpec", "transformer") => "Changes requests before, and answers after, the predictor.",
        ("InferenceServiceSpec", "explainer") => "Explains answers of the predictor.",
        ("PredictorSpec", "model") => "The model to serve; a runtime is chosen by its format.",
        (_, "minReplicas") if component => "Fewest replicas. 0 lets it sleep when nobody asks; 1 when left out.",
        (_, "maxReplicas") if component => "Most replicas.",
        (_, "scaleTarget") if component => "Load per replica that scaling aims for, in the unit of `scaleMetric`.",
        (_, "scaleMetric") if component => "What load means: concurrency, rps, cpu or memory.",
        (_, "containerConcurrency") if component => "Most requests at once in one replica; 0 is no limit.",
        (_, "timeout") if component => "Longest time for one request, in seconds.",
        (_, "canaryTrafficPercent") if component => "Share of the traffic for the latest revision, in percent.",
        (_, "logger") if component => "Sends copies of requests and answers somewhere.",
        (_, "batcher") if component => "Puts several requests together into one.",
        (_, "containers") => "Containers to run; the first one serves.",
        (_, "serviceAccountName") => "ServiceAccount whose secrets are used to fetch the model.",
        (_, "modelFormat") if model => "The format the model was saved in. Required.",
        (_, "storageUri") if model => {
            "Where the model's files are: gs://, s3://, hf://, https://, pvc://, oci://, file://."
        }
        (_, "storage") if model => "Where the model's files are, by a key of the storage secret.",
        (_, "runtime") if model => "The runtime to use, instead of choosing one by format.",
        (_, "runtimeVersion") if model => "Tag of the runtime's image.",
        (_, "protocolVersion") if model => "Protocol the model is served with: v1, v2, grpc-v1 or grpc-v2.",
        ("ModelFormat" | "SupportedModelFormat", "name") => "sklearn, xgboost, huggingface, onnx, ….",
        ("ModelFormat" | "SupportedModelFormat", "version") => "Version of the format.",
        ("SupportedModelFormat", "autoSelect") => "Whether this runtime is chosen when none is named.",
        ("SupportedModelFormat", "priority") => "The highest is chosen first.",
        (_, "image") if container => "Image to run.",
        (_, "args") if container => "Arguments of the command.",
        (_, "command") if container => "Command to run instead of the image's own.",
        (_, "env") if container => "Environment variables.",
        (_, "resources") if container => "CPU, memory and GPUs: what is asked for and the most that is given.",
        ("ServingRuntimeSpec", "supportedModelFormats") => "Formats that are served.",
        ("ServingRuntimeSpec", "disabled") => "Never choose this runtime.",
        ("ServingRuntimeSpec", "protocolVersions") => "Protocols that are served.",
        _ => return None,
    })
}
