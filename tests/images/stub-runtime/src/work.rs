//! Work: processor time that is really used, and a child process that takes memory.

use std::process::Stdio;
use std::time::Duration;

/// Uses so much processor time, however long that takes.
pub fn burn(time: Duration) {
    let until = processor_time() + time;
    let mut number = 1_u64;
    while processor_time() < until {
        for _ in 0..200_000 {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

/// Processor time of this thread so far, in the kernel's ticks of 10 ms.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    // The name, in brackets, may have spaces in it.
    let rest = text.rsplit(')').next().unwrap_or_default();
    let ticks = |index: usize| rest.split_whitespace().nth(index).and_then(|text| text.parse::<u64>().ok());
    Duration::from_millis((ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0)) * 10)
}

/// Starts this program again as a child that takes memory and keeps it, and says how it ended. It ends by itself after a
/// minute.
pub async fn child_that_eats(mib: usize) -> String {
    let eat = move || {
        let program = std::env::current_exe()?;
        let mut command = std::process::Command::new(program);
        command.args(["eat", &mib.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).status()
    };
    match tokio::task::spawn_blocking(eat).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    }
}
