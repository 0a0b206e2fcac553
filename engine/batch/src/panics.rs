//! A panic in a library, turned into an error of the statement that met it.
//!
//! Decoders of file formats panic on some damaged files. A process that runs other people's data must not end for that.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use futures::FutureExt;
use parking_lot::Mutex;
use trireme_spec::problem::{ErrorCode, Problem};

/// Where the last panic of this process was, and what it said.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Crates whose panics mean that a file is damaged.
const DECODERS: [&str; 6] = [
    "/parquet-",
    "/arrow-csv-",
    "/arrow-json-",
    "/arrow-ipc-",
    "/arrow-array-",
    "/arrow-data-",
];

/// Keeps panics off the screen: they become errors, and the log has them.
pub fn keep_quiet() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| panic::set_hook(Box::new(remember)));
}

fn remember(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(String::new, ToString::to_string);
    let text = info.payload_as_str().unwrap_or("no message");
    tracing::debug!(%place, text, "panic");
    *LAST.lock() = Some(format!("{text}, at {place}"));
}

/// Runs `work`; a panic in it is a problem like any other.
///
/// # Errors
/// Those of `work`, and its panic.
pub async fn caught<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => done,
        Err(_) => Err(problem_of_last()),
    }
}

/// What the last panic means.
pub fn problem_of_last() -> Problem {
    let text = LAST.lock().clone().unwrap_or_else(|| "no message".to_owned());
    if DECODERS.iter().any(|decoder| text.contains(decoder)) {
        let what = text.split(", at ").next().unwrap_or_default();
        return Problem::new(ErrorCode::DataMalformed, format!("a file cannot be decoded: {what}"))
            .remedy("check that the file is complete and of the declared format");
    }
    Problem::new(ErrorCode::Internal, format!("a bug was met: {text}")).remedy("please report it with this text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_that_says_where() {
        keep_quiet();
        let caught = caught(async { if true { panic!("boom") } else { Ok(()) } }).await;
        let problem = caught.unwrap_err();
        assert_eq!(problem.code, ErrorCode::Internal);
        assert!(
            problem.message.contains("boom") && problem.message.contains("panics.rs"),
            "{problem}"
        );
    }
}
