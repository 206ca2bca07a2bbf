//! The model of a predictor: format, storage, protocol, and the serving container's overrides.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};

/// `predictor.model`, and each legacy per-framework form (`ModelSpec`, `PredictorExtensionSpec`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelSpec {
    /// Format to be served; absent only in the legacy forms, where the field's name says it.
    pub model_format: ModelFormat,
    /// Runtime by name; chosen automatically when absent.
    pub runtime: Option<String>,
    /// Where the model is.
    pub storage_uri: Option<String>,
    /// Replaces the image's tag.
    pub runtime_version: Option<String>,
    /// `v1`, `v2`, `grpc-v1`, `grpc-v2`; absent means v1 when a runtime is chosen automatically.
    pub protocol_version: Option<String>,
    /// Key, path and parameters in the storage secret.
    pub storage: Option<StorageSpec>,
    /// Encrypted artifacts.
    pub confidential: Option<ConfidentialSpec>,

    // ── the inline Container ──
    /// Refused when not empty: the serving container's name is fixed.
    pub name: Option<String>,
    /// Image override.
    pub image: Option<String>,
    /// Replaces the runtime's command.
    pub command: Option<Vec<String>>,
    /// Appended to the runtime's arguments.
    pub args: Option<Vec<String>>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Merged by port number.
    pub ports: Option<Vec<core::ContainerPort>>,
    /// Replaces the runtime's.
    pub env_from: Option<Vec<core::EnvFromSource>>,
    /// Merged by name.
    pub env: Option<Vec<core::EnvVar>>,
    /// Merged per key.
    pub resources: Option<core::ResourceRequirements>,
    /// In-place resize policy.
    pub resize_policy: Option<Vec<core::ContainerResizePolicy>>,
    /// Restart policy of the container.
    pub restart_policy: Option<String>,
    /// Merged by mount path.
    pub volume_mounts: Option<Vec<core::VolumeMount>>,
    /// Raw devices.
    pub volume_devices: Option<Vec<core::VolumeDevice>>,
    /// Liveness probe.
    pub liveness_probe: Option<core::Probe>,
    /// Readiness probe.
    pub readiness_probe: Option<core::Probe>,
    /// Startup probe.
    pub startup_probe: Option<core::Probe>,
    /// Hooks.
    pub lifecycle: Option<core::Lifecycle>,
    /// Where the container leaves its last words.
    pub termination_message_path: Option<String>,
    /// How they are found.
    pub termination_message_policy: Option<String>,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: Option<String>,
    /// Security settings.
    pub security_context: Option<core::SecurityContext>,
    /// Keep stdin open.
    pub stdin: Option<bool>,
    /// Close stdin after the first attach.
    pub stdin_once: Option<bool>,
    /// Allocate a terminal.
    pub tty: Option<bool>,
}

impl ModelSpec {
    /// Returns the inline container fields as a Container named `kserve-container`.
    pub fn to_container(&self) -> core::Container {
        core::Container {
            name: super::meta::KSERVE_CONTAINER.to_owned(),
            image: self.image.clone(),
            command: self.command.clone(),
            args: self.args.clone(),
            working_dir: self.working_dir.clone(),
            ports: self.ports.clone(),
            env_from: self.env_from.clone(),
            env: self.env.clone(),
            resources: self.resources.clone(),
            resize_policy: self.resize_policy.clone(),
            restart_policy: self.restart_policy.clone(),
            volume_mounts: self.volume_mounts.clone(),
            volume_devices: self.volume_devices.clone(),
            liveness_probe: self.liveness_probe.clone(),
            readiness_probe: self.readiness_probe.clone(),
            startup_probe: self.startup_probe.clone(),
            lifecycle: self.lifecycle.clone(),
            termination_message_path: self.termination_message_path.clone(),
            termination_message_policy: self.termination_message_policy.clone(),
            image_pull_policy: self.image_pull_policy.clone(),
            security_context: self.security_context.clone(),
            stdin: self.stdin,
            stdin_once: self.stdin_once,
            tty: self.tty,
        }
    }
}

/// A model format, matched exactly and case-sensitively.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelFormat {
    /// For example `sklearn`.
    pub name: String,
    /// For example `1`; any version when absent.
    pub version: Option<String>,
}

impl fmt::Display for ModelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{} {version}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// `model.storage`: the model's place by key of a storage secret (§3.5).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageSpec {
    /// Key in the storage secret.
    pub key: Option<String>,
    /// Path within the bucket.
    pub path: Option<String>,
    /// Overrides of the secret's values.
    pub parameters: Option<BTreeMap<String, String>>,
    /// ModelMesh only.
    pub schema_path: Option<String>,
}

/// `model.confidential`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfidentialSpec {
    /// Whether artifacts are encrypted.
    pub enabled: Option<bool>,
    /// `kbs:///repo/type/tag`.
    pub resource_id: Option<String>,
}

/// An inference protocol, in upstream's order of preference (§0.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// V1 REST.
    V1,
    /// V2 (open inference protocol) REST.
    V2,
    /// TensorFlow Serving's gRPC.
    GrpcV1,
    /// Open inference protocol over gRPC.
    GrpcV2,
    /// Anything else; upstream's ordinal 5.
    Unknown,
}

impl ProtocolVersion {
    /// Reads a protocol name; anything unknown becomes [`ProtocolVersion::Unknown`].
    pub fn parse(text: &str) -> Self {
        match text {
            "v1" => Self::V1,
            "v2" => Self::V2,
            "grpc-v1" => Self::GrpcV1,
            "grpc-v2" => Self::GrpcV2,
            _ => Self::Unknown,
        }
    }

    /// Returns the name, empty for [`ProtocolVersion::Unknown`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::GrpcV1 => "grpc-v1",
            Self::GrpcV2 => "grpc-v2",
            Self::Unknown => "",
        }
    }

    /// Whether calls are gRPC.
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::GrpcV1 | Self::GrpcV2)
    }
}
