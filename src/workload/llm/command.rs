//! vLLM's command line, for a server that runs the preset's own command.

use k8s_openapi::api::core::v1::Container;
use serde_json::json;

use super::{ADAPTERS, Names};
use crate::api::llm_inference_service::{KvCacheOffloading, LlmInferenceServiceSpec, Lora};
use crate::api::{meta, quantity};
use crate::workload::ResolveError;

/// Gives a container the command: a shell, for `VLLM_ADDITIONAL_ARGS`; the manifest's own arguments come last.
pub(super) fn complete(
    main: &mut Container,
    spec: &LlmInferenceServiceSpec,
    names: &Names,
) -> Result<(), ResolveError> {
    let mut words = vec![
        "exec vllm serve".to_owned(),
        meta::MODEL_MOUNT_PATH.to_owned(),
        "--served-model-name".to_owned(),
        quoted(&names.model),
        quoted(&names.published),
        "--port 8000".to_owned(),
    ];
    if let Some(parallelism) = &spec.parallelism {
        let flags =
            [("--tensor-parallel-size", parallelism.tensor), ("--pipeline-parallel-size", parallelism.pipeline)];
        words.extend(flags.iter().filter_map(|(flag, size)| Some(format!("{flag} {}", (*size)?))));
    }
    if let Some(lora) = spec.model.as_ref().and_then(|model| model.lora.as_ref()) {
        words.extend(lora_flags(lora));
    }
    if let Some(offloading) = &spec.kv_cache_offloading {
        words.extend(offloading_flags(offloading)?);
    }
    words.push("${VLLM_ADDITIONAL_ARGS} \"$@\"".to_owned());
    main.command = Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), words.join(" "), "vllm".to_owned()]);
    Ok(())
}

fn lora_flags(lora: &Lora) -> Vec<String> {
    let adapters = lora.adapters.as_deref().unwrap_or_default();
    if adapters.is_empty() {
        return Vec::new();
    }
    let count = i32::try_from(adapters.len()).unwrap_or(i32::MAX);
    let mut words = vec!["--enable-lora".to_owned()];
    words.extend(lora.max_rank.map(|rank| format!("--max-lora-rank {rank}")));
    words.push(format!("--max-loras {}", lora.max_adapters.unwrap_or(count)));
    words.push(format!("--max-cpu-loras {}", lora.max_cpu_adapters.unwrap_or(count)));
    words.push("--lora-modules".to_owned());
    words.extend(adapters.iter().map(|adapter| {
        quoted(&json!({"name": adapter.name, "path": format!("{ADAPTERS}/{}", adapter.name)}).to_string())
    }));
    words
}

fn offloading_flags(offloading: &KvCacheOffloading) -> Result<Option<String>, ResolveError> {
    let Some(cpu) = &offloading.cpu else { return Ok(None) };
    let bytes = quantity::parse_whole(&cpu.0)
        .map_err(|error| ResolveError::invalid("spec.kvCacheOffloading.cpu", error.to_string()))?;
    let mut extra = json!({"cpu_bytes_to_use": bytes});
    if let Some(policy) = &offloading.eviction_policy {
        extra["eviction_policy"] = json!(policy);
    }
    let config = json!({
        "kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra,
    });
    Ok(Some(format!("--kv-transfer-config {}", quoted(&config.to_string()))))
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
