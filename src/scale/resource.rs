//! Targets of CPU and memory, as the Horizontal Pod Autoscaler and KEDA take them: shares of what is requested, or
//! amounts.

use serde_json::Value;

use super::policy::{Metric, Target};
use super::read::{Class, Reader};
use crate::api::quantity;

/// Percent of the requested CPU that is aimed at when nothing is said.
const CPU: i64 = 80;

/// Reads the target of a component whose replicas follow resources.
pub(super) fn target(reader: &mut Reader<'_>, class: Class, metric: Option<&str>) -> Option<Target> {
    let listed = reader.source.component.auto_scaling.as_ref().and_then(|scaling| scaling.get("metrics")?.as_array());
    match listed {
        Some(metrics) if !metrics.is_empty() || class == Class::Keda => listed_target(reader, metrics),
        None if class == Class::Keda => None,
        _ => field_target(reader, metric),
    }
}

fn field_target(reader: &mut Reader<'_>, metric: Option<&str>) -> Option<Target> {
    let percent = reader.source.component.scale_target.map(i64::from);
    match metric {
        Some("memory") => match percent {
            Some(percent) => share(reader, "scaleMetric", Metric::Memory, percent),
            None => {
                reader
                    .note_field("scaleMetric", "memory needs a scaleTarget, in percent; replicas stay at minReplicas");
                None
            }
        },
        _ => share(reader, "scaleMetric", Metric::Cpu, percent.unwrap_or(CPU)),
    }
}

/// Takes the first resource of a list; names what is not followed.
fn listed_target(reader: &mut Reader<'_>, metrics: &[Value]) -> Option<Target> {
    let mut found = None;
    for (index, metric) in metrics.iter().enumerate() {
        let field = format!("autoScaling.metrics[{index}]");
        let kind = metric["type"].as_str().unwrap_or_default();
        if kind != "Resource" {
            reader.note_field(&field, format!("metrics of type {kind} come from other systems and are not followed"));
        } else if found.is_some() {
            reader.note_field(&field, "only the first resource is followed");
        } else {
            found = resource(reader, &field, &metric["resource"]);
        }
    }
    found
}

fn resource(reader: &mut Reader<'_>, field: &str, written: &Value) -> Option<Target> {
    let metric = if written["name"] == "memory" { Metric::Memory } else { Metric::Cpu };
    let target = &written["target"];
    if let Some(percent) = target["averageUtilization"].as_i64() {
        return share(reader, field, metric, percent);
    }
    let amount = target["averageValue"].as_str().map(ToOwned::to_owned);
    let amount = amount.or_else(|| target["averageValue"].as_i64().map(|value| value.to_string()));
    let bytes = amount.and_then(|text| quantity::parse_whole(&text).ok()).filter(|_| metric == Metric::Memory);
    if bytes.is_none() {
        reader.note_field(field, "it names no averageUtilization, and no averageValue of memory; it is not followed");
    }
    #[expect(clippy::cast_precision_loss, reason = "a few bytes do not matter")]
    bytes.map(|bytes| Target { metric, per_replica: (bytes as f64).max(1.0) })
}

/// A share of what the containers request together.
fn share(reader: &mut Reader<'_>, field: &str, metric: Metric, percent: i64) -> Option<Target> {
    #[expect(clippy::cast_precision_loss, reason = "a few bytes do not matter")]
    let requested = match metric {
        Metric::Memory => reader.source.memory as f64,
        _ => reader.source.cpu_milli as f64 / 1000.0,
    };
    let percent = f64::from(i32::try_from(percent).unwrap_or(0));
    if requested <= 0.0 || percent <= 0.0 {
        if reader.source.component.max_replicas.is_some_and(|max| max > 1) {
            let name = if metric == Metric::Memory { "memory" } else { "cpu" };
            let why = format!(
                "a share of requested {name} is followed, and no container requests any; replicas stay at minReplicas"
            );
            reader.note_field(field, why);
        }
        return None;
    }
    Some(Target { metric, per_replica: requested * percent / 100.0 })
}
