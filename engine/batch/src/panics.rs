//! A panic in a library, turned into an error of the statement that met it.
//!
//! Decoders of file formats panic on some damaged files. A process that runs other people's data must not end for that. What a
//! panic says travels with it, because tasks that run beside each other may panic at the same moment; where it was, only the
//! hook is told, which keeps the last few places to be looked up.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::task::{self, JoinError};
use trireme_spec::problem::{ErrorCode, Problem};

/// Panics whose place is remembered: one for each task that may be at it, and then some.
const REMEMBERED_MAX: usize = 256;

static SEEN: Mutex<VecDeque<Seen>> = Mutex::new(VecDeque::new());

struct Seen {
    task: Option<task::Id>,
    text: String,
    place: String,
}

/// A panic that was caught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panic {
    text: String,
    place: Option<String>,
}

/// Keeps panics off the screen: they become errors, and the log has them.
pub fn keep_quiet() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| panic::set_hook(Box::new(remember)));
}

fn remember(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(String::new, ToString::to_string);
    let text = info.payload_as_str().unwrap_or(NO_TEXT);
    tracing::debug!(%place, text, "panic");
    let mut seen = SEEN.lock();
    if seen.len() == REMEMBERED_MAX {
        seen.pop_front();
    }
    seen.push_back(Seen {
        task: task::try_id(),
        text: text.to_owned(),
        place,
    });
}

const NO_TEXT: &str = "no message";

impl Panic {
    /// From what unwinding brought, on whatever thread it is caught.
    pub fn of_payload(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or(NO_TEXT);
        Self {
            text: text.to_owned(),
            place: last_place(|seen| seen.text == text),
        }
    }

    /// The panic of a task that somebody waited for; none if it was cancelled.
    pub fn of_task(error: &JoinError) -> Option<Self> {
        if !error.is_panic() {
            return None;
        }
        let seen = SEEN.lock();
        let seen = seen.iter().rev().find(|seen| seen.task == Some(error.id()));
        Some(match seen {
            Some(Seen { text, place, .. }) => Self {
                text: text.clone(),
                place: Some(place.clone()),
            },
            // Passed on from a task within it, or too long ago.
            None => Self {
                text: error.to_string(),
                place: None,
            },
        })
    }

    /// What was said, without where.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it means where nothing else is known to be at fault.
    pub fn problem(&self) -> Problem {
        let place = self.place.as_ref().map(|place| format!(", at {place}"));
        let text = format!("a bug was met: {}{}", self.text, place.unwrap_or_default());
        Problem::new(ErrorCode::Internal, text).remedy("please report it with this text")
    }
}

fn last_place(is_it: impl Fn(&Seen) -> bool) -> Option<String> {
    let seen = SEEN.lock();
    seen.iter()
        .rev()
        .find(|seen| is_it(seen))
        .map(|seen| seen.place.clone())
}

/// Runs `work`, whose panic is returned.
///
/// # Errors
/// The panic.
pub async fn catch<T>(work: impl Future<Output = T>) -> Result<T, Panic> {
    let caught = AssertUnwindSafe(work).catch_unwind().await;
    caught.map_err(|payload| Panic::of_payload(payload.as_ref()))
}

/// Runs `work`; a panic in it is a problem like any other.
///
/// # Errors
/// Those of `work`, and its panic.
pub async fn caught<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    catch(work).await.unwrap_or_else(|panic| Err(panic.problem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Barrier;

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

    /// Both panic before either is looked at.
    #[tokio::test]
    async fn tasks_that_panic_beside_each_other_keep_their_texts() {
        keep_quiet();
        let both = Arc::new(Barrier::new(2));
        let tasks = ["left", "right"].map(|name| {
            let both = Arc::clone(&both);
            let panics = tokio::spawn(async move {
                if true {
                    panic!("of the {name}")
                }
            });
            tokio::spawn(async move {
                let error = panics.await.unwrap_err();
                both.wait().await;
                (
                    name,
                    Panic::of_task(&error).unwrap(),
                    Panic::of_payload(&*error.into_panic()),
                )
            })
        });
        for task in tasks {
            let (name, of_task, of_payload) = task.await.unwrap();
            assert_eq!(of_task.text(), format!("of the {name}"));
            assert_eq!(of_payload, of_task);
            assert!(of_task.problem().message.contains("panics.rs"), "{of_task:?}");
        }
    }

    #[tokio::test]
    async fn a_panic_that_is_passed_on_keeps_its_text() {
        keep_quiet();
        let outer = tokio::spawn(async {
            let inner = tokio::spawn(async {
                if true {
                    panic!("of the inner")
                }
            });
            panic::resume_unwind(inner.await.unwrap_err().into_panic());
        });
        let error = outer.await.unwrap_err();
        assert!(Panic::of_task(&error).unwrap().text().contains("of the inner"));
        let cancelled = tokio::spawn(std::future::pending::<()>());
        cancelled.abort();
        assert_eq!(Panic::of_task(&cancelled.await.unwrap_err()), None);
    }
}
