//! Which credentials go along with a pull: those of the services that want it.

use std::collections::BTreeMap;
use std::future::Future;

use super::trained;
use crate::api::StorageUri;
use crate::plan::World;
use crate::storage::{PullError, SourceError};
use crate::workload::{Access, Workload};

/// Returns what a model may be fetched with: what each service, or object that keeps it, gives that gives anything. There is
/// always one, which may be nothing.
pub(super) fn of_model(world: &World, uri: &StorageUri) -> Vec<Access> {
    let models =
        workloads(world).flat_map(|workload| &workload.models).chain(world.kept.iter().map(|kept| &kept.model));
    let models = models.chain(trained::references(world));
    let mut given: Vec<Access> = Vec::new();
    for model in models.filter(|model| model.uri == *uri && !model.access.is_empty()) {
        if !given.contains(&model.access) {
            given.push(model.access.clone());
        }
    }
    if given.is_empty() {
        given.push(Access::default());
    }
    given
}

/// Tries each access in turn until one is let in, so that what one service may not see does not keep the model from
/// another that may. Some sources say of what one may not see that it is not there. The first refusal is the one told.
///
/// # Errors
/// Nobody was let in, or something else went wrong.
pub(super) async fn first_let_in<T, F>(
    accesses: Vec<Access>,
    mut attempt: impl FnMut(Access) -> F,
) -> Result<T, PullError>
where
    F: Future<Output = Result<T, PullError>>,
{
    let mut refused = None;
    for access in accesses {
        match attempt(access).await {
            Err(error @ PullError::Source { source: SourceError::Denied(_) | SourceError::NotFound(_), .. }) => {
                refused = refused.or(Some(error));
            }
            ended => return ended,
        }
    }
    Err(refused.unwrap_or(PullError::Cancelled))
}

/// Returns the logins for an image: those of every service that uses it.
pub(super) fn of_image(world: &World, image: &str) -> Vec<String> {
    let uses = |workload: &&Workload| {
        workload.containers.iter().chain(&workload.init_containers).any(|spec| spec.image == image)
    };
    let mut logins: Vec<String> =
        workloads(world).filter(uses).flat_map(|workload| workload.image_access.registries.clone()).collect();
    logins.dedup();
    logins
}

fn workloads(world: &World) -> impl Iterator<Item = &Workload> {
    let desired = world.services.values().flat_map(|service| service.workloads());
    let older = world.older.values().flat_map(BTreeMap::values);
    desired.chain(older).map(|resolved| resolved.workload.as_ref())
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    fn denied(who: &str) -> PullError {
        PullError::Source { uri: "s3://b/m".to_owned(), source: SourceError::Denied(who.to_owned()) }
    }

    fn accesses(whose: &[&str]) -> Vec<Access> {
        whose.iter().map(|who| Access { origins: vec![(*who).to_owned()], ..Access::default() }).collect()
    }

    #[tokio::test]
    async fn bad_credentials_of_one_service_do_not_starve_the_good_ones_of_another() {
        let mut tried = Vec::new();
        let fetched = first_let_in(accesses(&["expired", "good", "other"]), |access| {
            tried.push(access.origins[0].clone());
            ready(if access.origins == ["good"] { Ok(()) } else { Err(denied(&access.origins[0])) })
        });
        fetched.await.unwrap();
        assert_eq!(tried, ["expired", "good"]);
    }

    #[tokio::test]
    async fn the_first_refusal_is_told_and_other_problems_end_it() {
        let refused = first_let_in(accesses(&["a", "b"]), |access| ready(Err::<(), _>(denied(&access.origins[0]))));
        assert!(matches!(refused.await, Err(PullError::Source { source: SourceError::Denied(who), .. }) if who == "a"));
        let mut calls = 0;
        let broken = first_let_in(accesses(&["a", "b"]), |_| {
            calls += 1;
            ready(Err::<(), _>(PullError::Offline { uri: String::new() }))
        });
        assert!(broken.await.is_err());
        assert_eq!(calls, 1);
    }
}
