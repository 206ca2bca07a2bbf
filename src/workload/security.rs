//! Security settings: what is honoured, and what a manifest may not ask for (promises K5 and K6).
//!
//! Containers are built from an allow-list; a field here that would widen it is refused by name.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, PodSecurityContext, SeccompProfile, SecurityContext};

use super::origin::Origin;
use super::{ResolveError, Security};

/// Resolves a container's security settings over its pod's.
pub(super) fn security(
    container: &Container,
    origin: &Origin,
    pod: Option<&PodSecurityContext>,
) -> Result<Security, ResolveError> {
    refuse(container, origin)?;
    let none = PodSecurityContext::default();
    let pod = pod.unwrap_or(&none);
    let default = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&default);
    let run_as_user = own.run_as_user.or(pod.run_as_user);
    let run_as_non_root = own.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false);
    if run_as_non_root && run_as_user == Some(0) {
        return Err(ResolveError::invalid(
            origin.field(&["securityContext", "runAsUser"]),
            "container's runAsUser breaks non-root policy: runAsUser is 0 and runAsNonRoot is true",
        ));
    }
    let mut groups: Vec<i64> =
        pod.fs_group.into_iter().chain(pod.supplemental_groups.iter().flatten().copied()).collect();
    groups.sort_unstable();
    groups.dedup();
    Ok(Security {
        run_as_user,
        run_as_group: own.run_as_group.or(pod.run_as_group),
        run_as_non_root,
        read_only_root_filesystem: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups,
        share_ipc: false,
    })
}

/// Refuses what a container may not ask for.
pub(super) fn refuse(container: &Container, origin: &Origin) -> Result<(), ResolveError> {
    let at = |steps: &[&str], what: &str| Err(refused(origin.field(steps), what));
    if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
        return at(&["volumeDevices"], "raw devices are not given to containers");
    }
    let Some(context) = &container.security_context else { return Ok(()) };
    if context.privileged == Some(true) {
        return at(&["securityContext", "privileged"], "privileged containers are not run");
    }
    if context.allow_privilege_escalation == Some(true) {
        return at(&["securityContext", "allowPrivilegeEscalation"], "containers may not gain privileges");
    }
    let added = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_ref());
    if added.is_some_and(|added| !added.is_empty()) {
        return at(&["securityContext", "capabilities", "add"], "containers get no capabilities");
    }
    if context.proc_mount.as_deref().is_some_and(|mount| !matches!(mount, "" | "Default")) {
        return at(&["securityContext", "procMount"], "only the default procMount is given");
    }
    if let Some(what) = widened(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref()) {
        return at(&["securityContext", what], "only RuntimeDefault profiles are used");
    }
    Ok(())
}

/// Refuses what a pod's security settings may not ask for.
pub(super) fn refuse_pod(pod: &PodSecurityContext, path: &str) -> Result<(), ResolveError> {
    if pod.sysctls.as_ref().is_some_and(|sysctls| !sysctls.is_empty()) {
        return Err(refused(format!("{path}.sysctls"), "kernel settings are not changed for containers"));
    }
    match widened(pod.seccomp_profile.as_ref(), pod.app_armor_profile.as_ref()) {
        Some(what) => Err(refused(format!("{path}.{what}"), "only RuntimeDefault profiles are used")),
        None => Ok(()),
    }
}

fn refused(field: String, what: &str) -> ResolveError {
    ResolveError::invalid(field, what).with_help("remove the field; models rarely need it")
}

fn widened(seccomp: Option<&SeccompProfile>, app_armor: Option<&AppArmorProfile>) -> Option<&'static str> {
    if seccomp.is_some_and(|profile| profile.type_ != "RuntimeDefault") {
        return Some("seccompProfile");
    }
    app_armor.is_some_and(|profile| profile.type_ != "RuntimeDefault").then_some("appArmorProfile")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resolved(container: Value, pod: Value) -> Result<Security, ResolveError> {
        let mut container = container;
        container["name"] = json!("c");
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: PodSecurityContext = serde_json::from_value(pod).unwrap();
        security(&container, &Origin::new("spec.predictor.containers[0]", &container), Some(&pod))
    }

    #[test]
    fn the_containers_settings_go_over_the_pods() {
        let pod = json!({ "runAsUser": 1, "runAsGroup": 2, "fsGroup": 9, "supplementalGroups": [3, 9], "runAsNonRoot": true });
        let own = json!({ "securityContext": { "runAsUser": 1000, "readOnlyRootFilesystem": true, "privileged": false, "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } });
        assert_eq!(
            resolved(own, pod).unwrap(),
            Security {
                run_as_user: Some(1000),
                run_as_group: Some(2),
                run_as_non_root: true,
                read_only_root_filesystem: true,
                supplemental_groups: vec![3, 9],
                share_ipc: false,
            }
        );
        assert_eq!(resolved(json!({}), json!({})).unwrap(), Security::default());
    }

    #[test]
    fn what_would_widen_the_allow_list_is_refused_by_field() {
        let cases = [
            (json!({ "privileged": true }), "privileged"),
            (json!({ "allowPrivilegeEscalation": true }), "allowPrivilegeEscalation"),
            (json!({ "capabilities": { "add": ["SYS_ADMIN"] } }), "capabilities.add"),
            (json!({ "procMount": "Unmasked" }), "procMount"),
            (json!({ "seccompProfile": { "type": "Unconfined" } }), "seccompProfile"),
            (json!({ "appArmorProfile": { "type": "Unconfined" } }), "appArmorProfile"),
            (json!({ "runAsUser": 0, "runAsNonRoot": true }), "runAsUser"),
        ];
        for (context, field) in cases {
            let error = resolved(json!({ "securityContext": context }), json!({})).unwrap_err();
            let ResolveError::Invalid { field: path, .. } = &error else { panic!("{error}") };
            assert_eq!(path, &format!("spec.predictor.containers[0].securityContext.{field}"));
        }
        let devices = json!({ "volumeDevices": [{ "name": "d", "devicePath": "/dev/x" }] });
        assert!(resolved(devices, json!({})).is_err());
    }

    #[test]
    fn a_pod_may_not_change_the_kernel_or_drop_its_profile() {
        for (pod, field) in [
            (json!({ "sysctls": [{ "name": "a", "value": "b" }] }), "sysctls"),
            (json!({ "seccompProfile": { "type": "Unconfined" } }), "seccompProfile"),
        ] {
            let error =
                refuse_pod(&serde_json::from_value(pod).unwrap(), "spec.predictor.securityContext").unwrap_err();
            let ResolveError::Invalid { field: path, .. } = &error else { panic!("{error}") };
            assert_eq!(path, &format!("spec.predictor.securityContext.{field}"));
        }
    }
}
