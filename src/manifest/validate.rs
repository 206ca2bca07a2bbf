//! Upstream's rules, reported all at once (§1.7, §2.8).
