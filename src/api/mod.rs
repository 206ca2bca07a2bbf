//! Objects exactly as users write them: KServe's kinds and the few Kubernetes kinds they lean on.
//!
//! **Invariant:** nothing in this room decodes text, applies defaults or knows this machine. Field names, types and
//! meanings are upstream's (`serving.kserve.io`); pod-level types are Kubernetes' own, from `k8s-openapi`.

pub mod component;
pub mod condition;
pub mod inference_graph;
pub mod inference_service;
pub mod llm_inference_service;
pub mod meta;
pub mod model_spec;
pub mod object;
pub mod quantity;
pub mod serving_runtime;
pub mod status;
pub mod storage_kinds;
pub mod storage_uri;
pub mod trained_model;

pub use component::{ComponentKind, ComponentSpec};
pub use condition::{Condition, ConditionStatus};
pub use inference_graph::InferenceGraphSpec;
pub use inference_service::InferenceServiceSpec;
pub use llm_inference_service::LlmInferenceServiceSpec;
pub use meta::Metadata;
pub use model_spec::{ModelFormat, ModelSpec, ProtocolVersion};
pub use object::{Kind, Object, ObjectKey, ServiceKey, Typed};
pub use serving_runtime::{ServingRuntimeSpec, SupportedModelFormat};
pub use status::InferenceServiceStatus;
pub use storage_kinds::{
    LocalModelCacheSpec, LocalModelCacheStatus, LocalModelNodeGroupSpec, StorageContainer, StorageContainerSpec,
};
pub use storage_uri::StorageUri;
pub use trained_model::TrainedModelSpec;
