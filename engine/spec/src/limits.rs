//! All limits and budgets of Trireme in one place, with their reasons.
//!
//! Code reads a limit from [`Limits`], never from a constant of its own, so that `trireme explain --limits` and the
//! reference page, both made from [`Limits::rows`], cannot leave one out. Only the bounds of a manifest's single fields are
//! elsewhere: in its schema, where `kubectl explain` finds them.

use std::fmt;

use crate::duration::Period;
use crate::quantity::Bytes;

/// One limit as a line of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRow {
    /// Name of the field of [`Limits`].
    pub name: &'static str,
    /// Value, as manifests would write it.
    pub value: String,
    /// What is counted.
    pub unit: &'static str,
    /// What is limited, and what happens beyond.
    pub meaning: &'static str,
}

/// A type of limit; says what a value counts when its text does not.
trait Measure: fmt::Display {
    const UNIT: &'static str;
}

impl Measure for Bytes {
    const UNIT: &'static str = "bytes";
}

impl Measure for Period {
    const UNIT: &'static str = "duration";
}

impl Measure for u32 {
    const UNIT: &'static str = "count";
}

macro_rules! limits {
    ($(#[doc = $meaning:literal] $name:ident: $kind:ty = $default:expr;)+) => {
        /// Every limit and budget. The default is what runs; tests make others.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $(#[doc = $meaning] pub $name: $kind,)+
        }

        impl Default for Limits {
            fn default() -> Limits {
                Limits::DEFAULT
            }
        }

        impl Limits {
            /// What runs unless somebody says otherwise.
            pub const DEFAULT: Limits = Limits { $($name: $default,)+ };

            /// Every limit as a line of a table, in the order of the fields.
            pub fn rows(&self) -> Vec<LimitRow> {
                // Destructured without `..`, so that a new limit cannot be left out.
                let Limits { $($name,)+ } = self;
                vec![$(LimitRow {
                    name: stringify!($name),
                    value: $name.to_string(),
                    unit: <$kind as Measure>::UNIT,
                    meaning: $meaning.trim_ascii(),
                },)+]
            }
        }
    };
}

limits! {
    /// Length of a manifest. etcd takes objects of up to 1.5 MiB, so a longer one could not be applied anyway.
    manifest_bytes_max: Bytes = Bytes::mib(1);
    /// Levels of lists and mappings in a manifest. Its own fields take seven; walking it takes stack for each.
    manifest_depth_max: u32 = 32;
    /// Values in a manifest, counting what YAML aliases repeat: a short text could otherwise stand for a huge one.
    manifest_values_max: u32 = 50_000;
    /// Problems reported of one manifest. Who has more than a screenful has one mistake many times.
    manifest_problems_max: u32 = 20;
    /// Least memory of an executor or driver. Below, its own buffers leave nothing to work with.
    memory_min: Bytes = Bytes::mib(128);
    /// Most memory of an executor or driver. Beyond any machine, so it is a typing error.
    memory_max: Bytes = Bytes::gib(16 << 10);
    /// Least scratch of an executor or driver. Below, its log alone could have its pod evicted.
    scratch_min: Bytes = Bytes::mib(64);
    /// Statements of one job. Every one is an entry of the journal and a line of the progress.
    statements_max: u32 = 1_000;
    /// Rows of a result that a report shows.
    result_preview_rows_max: u32 = 20;
    /// Length of a result's preview, cut at a line.
    result_preview_bytes_max: Bytes = Bytes::kib(8);
    /// Length of the last report in a pod's termination log. Kubernetes cuts what is longer.
    termination_message_bytes_max: Bytes = Bytes::kib(4);
    /// A driver answers requests for its report at most this often.
    report_interval_min: Period = Period::seconds(1);
    /// A driver answers a request for its report after this time even if nothing changed.
    report_wait_max: Period = Period::seconds(30);
    /// A worker says that it is alive this often.
    heartbeat_interval: Period = Period::seconds(2);
    /// A worker that was silent for this long is lost, for ever: five heartbeats, so that one late packet is no loss.
    worker_silence_max: Period = Period::seconds(10);
    /// Tries of one task that fails by its own fault, the first one included; spec.retries.application changes it.
    task_attempts_max: u32 = 4;
    /// Workers that may die under the same task before it is blamed; as many more for each that died without it.
    poison_worker_deaths_max: u32 = 3;
    /// Length of one message on the control stream between driver and worker. A longer one is refused unread.
    message_bytes_max: Bytes = Bytes::mib(16);
    /// Length of the plan of one stage on its way to a worker. It travels in a message, with room for the rest.
    plan_bytes_max: Bytes = Bytes::mib(12);
    /// Operators of SQL in a row, without a comma or a parenthesis that ends. Planners take time by their square, and stack.
    sql_operators_max: u32 = 1_000;
    /// Levels in the encoded plan of one stage: an operator takes two, an expression two. Decoders refuse deeper ones.
    plan_depth_max: u32 = 100;
    /// A job waits this long without a single worker before it fails.
    executor_wait_max: Period = Period::minutes(5);
    /// A worker that was told to leave has this long until nothing on it is needed; then it leaves all the same.
    drain_grace: Period = Period::seconds(60);
    /// Disk that one process may use at a time for what does not fit in memory. Shuffle files do not count.
    spill_quota: Bytes = Bytes::gib(64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch_job::Retries;

    #[test]
    fn rows_read_well() {
        let rows = Limits::default().rows();
        let line = |name: &str| {
            let row = rows.iter().find(|row| row.name == name).unwrap();
            format!("{} = {} ({}): {}", row.name, row.value, row.unit, row.meaning)
        };
        assert_eq!(
            line("result_preview_bytes_max"),
            "result_preview_bytes_max = 8Ki (bytes): Length of a result's preview, cut at a line."
        );
        assert_eq!(
            line("drain_grace").split(':').next(),
            Some("drain_grace = 1m (duration)")
        );
        for row in &rows {
            assert!(row.meaning.ends_with('.'), "{} has no sentence", row.name);
        }
    }

    #[test]
    fn limits_agree_with_each_other() {
        let limits = Limits::default();
        assert_eq!(limits.task_attempts_max, Retries::default().application + 1);
        assert!(limits.heartbeat_interval.as_millis() * 3 <= limits.worker_silence_max.as_millis());
        assert!(limits.plan_bytes_max < limits.message_bytes_max);
        assert!(limits.drain_grace < limits.executor_wait_max);
    }
}
