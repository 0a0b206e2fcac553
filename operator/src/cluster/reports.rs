//! What drivers say about themselves, and what they are told.
//!
//! One task for each driver that is at work: it asks the driver's http port for the next report and waits for the answer, which
//! comes when something has changed. A visit reads what came last and never waits. The connection trusts the job's own
//! authority and nothing else, and asks for the role: the address is only where to look.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::{Certificate, Client, StatusCode};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use trireme_pki::Role;
use trireme_spec::limits::Limits;
use trireme_spec::report::JobReport;

use super::{Follow, Said};
use crate::names::{JobKey, port};

/// Longest report that is read. One with a thousand workers and a full preview has some 150 KiB.
const REPORT_BYTES_MAX: usize = 1 << 20;

/// Beyond the driver's own wait: an answer on a busy machine.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries on a driver that does not answer.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A word to a driver that takes longer than this is not worth waiting for: it finds out by itself.
const WORD_PATIENCE: Duration = Duration::from_secs(5);

/// After this long a driver's secret is looked at again, for certificates that want renewal.
const LOOK_AGAIN: Duration = Duration::from_secs(2 * 60 * 60);

/// The drivers that are followed.
#[derive(Debug)]
pub struct Reports {
    followed: Arc<Mutex<HashMap<JobKey, Followed>>>,
    changed: mpsc::Sender<JobKey>,
}

#[derive(Debug)]
struct Followed {
    pod_uid: String,
    run: String,
    attempt: u32,
    since: Instant,
    report: Option<JobReport>,
    line: Line,
    task: AbortHandle,
}

impl Reports {
    /// Names each job with news on `changed`.
    pub fn new(changed: mpsc::Sender<JobKey>) -> Reports {
        Reports {
            followed: Arc::default(),
            changed,
        }
    }

    /// What the driver of `key` said last.
    pub fn get(&self, key: &JobKey) -> Option<Said> {
        let followed = self.followed.lock();
        let driver = followed.get(key)?;
        Some(Said {
            run: driver.run.clone(),
            attempt: driver.attempt,
            report: driver.report.clone()?,
        })
    }

    /// Whether the driver in that pod is followed, and need not be looked at again yet.
    pub fn follows(&self, key: &JobKey, pod_uid: &str) -> bool {
        let followed = self.followed.lock();
        followed
            .get(key)
            .is_some_and(|driver| driver.pod_uid == pod_uid && driver.since.elapsed() < LOOK_AGAIN)
    }

    /// Follows a driver, instead of the one before.
    pub fn follow(&self, driver: Follow) {
        let line = match Line::to(&driver) {
            Ok(line) => line,
            Err(error) => {
                return tracing::error!(job = %driver.key, error = %causes(&error), "a driver cannot be asked");
            }
        };
        let mut followed = self.followed.lock();
        let report = followed.get(&driver.key).filter(|old| old.pod_uid == driver.pod_uid);
        let report = report.and_then(|old| old.report.clone());
        let ask = ask(
            line.clone(),
            driver.clone(),
            Arc::clone(&self.followed),
            self.changed.clone(),
        );
        let new = Followed {
            pod_uid: driver.pod_uid,
            run: driver.run,
            attempt: driver.attempt,
            since: Instant::now(),
            report,
            line,
            task: tokio::spawn(ask).abort_handle(),
        };
        if let Some(old) = followed.insert(driver.key, new) {
            old.task.abort();
        }
    }

    /// Tells the driver of `key` that executors have ended, in the background, once.
    pub fn tell_lost(&self, key: &JobKey, executors: &[String]) {
        let Some(line) = self.followed.lock().get(key).map(|driver| driver.line.clone()) else {
            return;
        };
        let (key, executors) = (key.clone(), executors.to_vec());
        tokio::spawn(async move {
            for name in executors {
                match line.tell_lost(&name).await {
                    Ok(answer) => {
                        tracing::debug!(job = %key, executor = name, %answer, "the driver was told of a loss")
                    }
                    Err(error) => {
                        tracing::debug!(job = %key, executor = name, error = %causes(&error), "the driver was not told of a loss")
                    }
                }
            }
        });
    }

    /// Follows nobody of `key` any more.
    pub fn forget(&self, key: &JobKey) {
        if let Some(old) = self.followed.lock().remove(key) {
            old.task.abort();
        }
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        for driver in self.followed.lock().values() {
            driver.task.abort();
        }
    }
}

/// Asks until it is told to stop.
async fn ask(
    line: Line,
    driver: Follow,
    followed: Arc<Mutex<HashMap<JobKey, Followed>>>,
    changed: mpsc::Sender<JobKey>,
) {
    let mut version = 0;
    let mut pace = Pace { retry: RETRY };
    loop {
        let asked = Instant::now();
        let next = match line.next(version).await {
            Ok((new, report)) => {
                version = new;
                let known = {
                    let mut followed = followed.lock();
                    let entry = followed
                        .get_mut(&driver.key)
                        .filter(|entry| entry.pod_uid == driver.pod_uid);
                    entry.map(|entry| entry.report.replace(report))
                };
                if known.is_none() || changed.send(driver.key.clone()).await.is_err() {
                    return;
                }
                pace.answered(asked)
            }
            Err(error) => {
                tracing::debug!(job = %driver.key, attempt = driver.attempt, %error, "no report");
                pace.not_answered(Instant::now())
            }
        };
        tokio::time::sleep_until(next.into()).await;
    }
}

/// When to ask a driver again.
struct Pace {
    retry: Duration,
}

impl Pace {
    /// After an answer to what was `asked` then. A driver of ours takes this long to answer; an image of somebody else's may not.
    fn answered(&mut self, asked: Instant) -> Instant {
        self.retry = RETRY;
        asked + Limits::DEFAULT.report_interval_min.get()
    }

    fn not_answered(&mut self, now: Instant) -> Instant {
        let next = now + self.retry;
        self.retry = (self.retry * 2).min(RETRY_MAX);
        next
    }
}

fn port_number() -> u16 {
    u16::try_from(port::HTTP).unwrap_or_default()
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum NoReport {
    #[error("{}", causes(.0))]
    Http(#[from] reqwest::Error),
    #[error("the driver answers {0}")]
    Status(StatusCode),
    #[error("the report is longer than {REPORT_BYTES_MAX} bytes")]
    TooLong,
    #[error("the report cannot be read: {0}")]
    Form(#[from] serde_json::Error),
}

/// The way to the http port of one driver, and to no other.
#[derive(Clone)]
struct Line {
    client: Client,
    token: Arc<str>,
}

impl Line {
    fn to(driver: &Follow) -> Result<Line, reqwest::Error> {
        let patience = Duration::from_millis(Limits::DEFAULT.report_wait_max.as_millis()) + ANSWER_PATIENCE;
        let address = driver.pod_ip.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let client = Client::builder()
            .tls_built_in_root_certs(false)
            .add_root_certificate(Certificate::from_pem(driver.secret.ca_pem.as_bytes())?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .resolve(Role::Driver.dns_name(), SocketAddr::new(address, port_number()))
            .connect_timeout(Duration::from_secs(5))
            .timeout(patience)
            .build()?;
        let token = Arc::from(driver.secret.token.as_str());
        Ok(Line { client, token })
    }

    fn url(path: &str) -> String {
        format!("https://{}:{}{path}", Role::Driver.dns_name(), port_number())
    }

    /// The report after version `after`, and its version.
    async fn next(&self, after: u64) -> Result<(u64, JobReport), NoReport> {
        let asking = self.client.get(Line::url(&format!("/report?after={after}")));
        let mut answer = asking.bearer_auth(&self.token).send().await?;
        if answer.status() != StatusCode::OK {
            return Err(NoReport::Status(answer.status()));
        }
        let version = answer.headers().get("trireme-report-version");
        let version = version
            .and_then(|version| version.to_str().ok()?.parse().ok())
            .unwrap_or(after);
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > REPORT_BYTES_MAX {
                return Err(NoReport::TooLong);
            }
            body.extend_from_slice(&piece);
        }
        Ok((version, serde_json::from_slice(&body)?))
    }

    async fn tell_lost(&self, executor: &str) -> Result<StatusCode, reqwest::Error> {
        let telling = self.client.post(Line::url(&format!("/workers/{executor}/lost")));
        let answer = telling.bearer_auth(&self.token).timeout(WORD_PATIENCE).send().await?;
        Ok(answer.status())
    }
}

/// The token is nobody's to read.
impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

/// An error with what is behind it, on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_answers_at_once_is_asked_once_a_second() {
        let begin = Instant::now();
        let (mut pace, mut now) = (Pace { retry: RETRY }, begin);
        for _ in 0..10 {
            now = now.max(pace.answered(now));
        }
        assert_eq!(now - begin, Duration::from_secs(10));
        let answered = now + Duration::from_secs(1);
        assert!(
            pace.answered(now) <= answered,
            "one that took its time is asked again at once"
        );
    }

    #[test]
    fn a_driver_that_does_not_answer_is_asked_ever_less_often() {
        let mut pace = Pace { retry: RETRY };
        let now = Instant::now();
        let waits: Vec<_> = (0..6).map(|_| (pace.not_answered(now) - now).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        pace.answered(now);
        assert_eq!(pace.not_answered(now) - now, RETRY);
    }
}
