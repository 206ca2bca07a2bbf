//! Free ports of the loopback interface.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

/// Below the range from which systems take the ports of outgoing connections, so that none gets in between.
const RANGE: std::ops::Range<u16> = 21_000..31_000;
/// Attempts before the system chooses.
const ATTEMPTS: u32 = 200;

/// Returns a port nobody listens on and nobody was promised.
pub(super) fn free(taken: &BTreeSet<u16>) -> std::io::Result<u16> {
    for _ in 0..ATTEMPTS {
        let port = rand::random_range(RANGE);
        if !taken.contains(&port) && is_free(port) {
            return Ok(port);
        }
    }
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether a server could listen on a port, on this address or on all of them.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_once() {
        let port = free(&BTreeSet::new()).unwrap();
        assert!(is_free(port));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(!is_free(port));
        drop(listener);
        let all_but_one: BTreeSet<u16> = RANGE.filter(|other| *other != port).collect();
        assert!(!all_but_one.contains(&free(&all_but_one).unwrap()));
    }
}
