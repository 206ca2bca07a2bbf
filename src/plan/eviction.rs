//! Which idle services are put to sleep when room is needed: the cheapest that free enough.
//!
//! What a service costs is what it takes to load it again, weighed by how likely that is soon: who was asked a moment ago
//! is asked again sooner than who was not asked for an hour. Priority stands above cost: no service goes while others of
//! lower priority could make the room.

use std::cmp::Ordering;
use std::time::Duration;

use crate::api::ServiceKey;

/// An idle service that could be put to sleep.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The service.
    pub service: ServiceKey,
    /// Bytes of memory that come free.
    pub memory: u64,
    /// What it takes to load it again.
    pub reload: Duration,
    /// How long nobody has asked; none when nobody ever did since the daemon started.
    pub idle: Option<Duration>,
    /// Higher stays longer.
    pub priority: i64,
}

/// Up to so many candidates every set is looked at.
const EXACT: usize = 10;

/// Returns the positions of the cheapest candidates that are enough together; none when all of them are not.
pub fn cheapest(candidates: &[Candidate], enough: impl Fn(&[usize]) -> bool) -> Option<Vec<usize>> {
    let all: Vec<usize> = (0..candidates.len()).collect();
    if !enough(&all) {
        return None;
    }
    if candidates.len() <= EXACT { exact(candidates, enough) } else { Some(greedy(candidates, enough)) }
}

fn exact(candidates: &[Candidate], enough: impl Fn(&[usize]) -> bool) -> Option<Vec<usize>> {
    let sets = (0u32..1 << candidates.len())
        .map(|bits| (0..candidates.len()).filter(|at| bits & (1 << at) != 0).collect::<Vec<usize>>());
    let sets = sets.filter(|set| enough(set));
    sets.min_by(|a, b| price(candidates, a).partial_cmp(&price(candidates, b)).unwrap_or(Ordering::Equal))
}

/// Takes the cheapest by the byte until it is enough, and then gives back what was not needed, the dearest first.
fn greedy(candidates: &[Candidate], enough: impl Fn(&[usize]) -> bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    #[expect(clippy::cast_precision_loss, reason = "only compared")]
    let per_byte = |at: usize| (candidates[at].priority, cost(&candidates[at]) / candidates[at].memory.max(1) as f64);
    order.sort_by(|a, b| per_byte(*a).partial_cmp(&per_byte(*b)).unwrap_or(Ordering::Equal));
    let needed = (1..=order.len()).find(|count| enough(&order[..*count])).unwrap_or(order.len());
    let mut chosen = order[..needed].to_vec();
    for at in order[..needed].iter().rev() {
        let rest: Vec<usize> = chosen.iter().copied().filter(|one| one != at).collect();
        if enough(&rest) {
            chosen = rest;
        }
    }
    chosen.sort_unstable();
    chosen
}

/// Highest priority that goes, then the sum of costs, then how many go.
fn price(candidates: &[Candidate], set: &[usize]) -> (i64, f64, usize) {
    let priority = set.iter().map(|at| candidates[*at].priority).max().unwrap_or(i64::MIN);
    (priority, set.iter().map(|at| cost(&candidates[*at])).sum(), set.len())
}

/// Seconds to load it again, times how likely that is soon.
fn cost(candidate: &Candidate) -> f64 {
    let likely = candidate.idle.map_or(0.1, |idle| 60.0 / (60.0 + idle.as_secs_f64()));
    candidate.reload.as_secs_f64().max(0.1) * likely
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, memory: u64, reload: u64, idle: u64) -> Candidate {
        Candidate {
            service: ServiceKey::new("default", name),
            memory,
            reload: Duration::from_secs(reload),
            idle: Some(Duration::from_secs(idle)),
            priority: 0,
        }
    }

    fn enough(candidates: &[Candidate], memory: u64) -> impl Fn(&[usize]) -> bool {
        move |set| set.iter().map(|at| candidates[*at].memory).sum::<u64>() >= memory
    }

    fn chosen(candidates: &[Candidate], memory: u64) -> Option<Vec<&str>> {
        let set = cheapest(candidates, enough(candidates, memory))?;
        Some(set.into_iter().map(|at| candidates[at].service.name.as_str()).collect())
    }

    #[test]
    fn the_cheapest_set_that_frees_enough_goes() {
        let all = [candidate("slow", 10, 60, 10), candidate("quick", 10, 2, 10), candidate("big", 40, 20, 10)];
        assert_eq!(chosen(&all, 5), Some(vec!["quick"]));
        assert_eq!(chosen(&all, 15), Some(vec!["big"]), "one that loads in 20 s before two, one of them slow");
        assert_eq!(chosen(&all, 45), Some(vec!["quick", "big"]));
        assert_eq!(chosen(&all, 61), None);
    }

    #[test]
    fn who_was_asked_longest_ago_goes_first_and_priority_stands_above_that() {
        let mut all = [candidate("recent", 10, 5, 1), candidate("old", 10, 5, 600)];
        assert_eq!(chosen(&all, 10), Some(vec!["old"]));
        all[1].priority = 100;
        assert_eq!(chosen(&all, 10), Some(vec!["recent"]));
        assert_eq!(chosen(&all, 20), Some(vec!["recent", "old"]), "it goes when nothing else will do");
    }

    #[test]
    fn many_candidates_are_chosen_from_without_looking_at_every_set_and_none_goes_in_vain() {
        let all: Vec<Candidate> = (0..40).map(|at| candidate(&format!("s{at}"), 10, 1 + at, 10)).collect();
        let set = cheapest(&all, enough(&all, 55)).unwrap();
        assert_eq!(set, [0, 1, 2, 3, 4, 5]);
    }
}
