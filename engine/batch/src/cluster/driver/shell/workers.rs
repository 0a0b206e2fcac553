//! What workers say, and what is said of them: they attach, report on tasks, drain, and are lost.

use std::collections::{HashMap, HashSet};
use std::net::Ipv6Addr;

use prost::Message;
use trireme_batch_schedule::{CloseCause, DrainWait, Event, Failure, PartitionSize, TaskId, WorkerId};
use trireme_exchange::control::{self, ConnectionId, ControlEvent, WorkerLink};
use trireme_exchange::http::WorkerLost;
use trireme_exchange::wire::driver_message::Body as ToWorker;
use trireme_exchange::wire::worker_message::Body as FromWorker;
use trireme_exchange::wire::{Drain, FailureKind, Heartbeat, Hello, Refused, TaskFailed, TaskFinished, Welcome};
use trireme_spec::report::WorkerState;

use super::super::super::task::TaskReport;
use super::{Shell, Standing, WORKERS_GONE_MAX, Worker};

impl Shell {
    pub(super) fn on_control(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Attached {
                connection,
                hello,
                peer,
                link,
            } => {
                self.attach(connection, hello, peer.instance(), link);
            }
            ControlEvent::Message { connection, message } => {
                if let Some(&worker) = self.connections.get(&connection) {
                    self.on_message(worker, message);
                }
            }
            ControlEvent::Closed { connection, cause } => {
                if let Some(worker) = self.connections.remove(&connection) {
                    self.closed(worker, &cause);
                }
            }
        }
    }

    fn attach(&mut self, connection: ConnectionId, hello: Hello, instance: &str, link: WorkerLink) {
        let Some((host, port)) = host_and_port(&hello.data_address) else {
            link.close(format!("{:?} is no address of the form host:port", hello.data_address));
            return;
        };
        if self.names.get(&hello.worker_name) == Some(&Standing::Gone) {
            tracing::warn!(name = %hello.worker_name, instance, pid = hello.pid, "refused a worker that was declared gone");
            let reason = format!("worker {} was declared gone", hello.worker_name);
            // The stream ends with its only link, once this is sent.
            drop(link.send(ToWorker::Refused(Refused { reason, fatal: true })));
            return;
        }
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        let welcome = Welcome {
            worker_id: worker.0,
            generation: self.generation,
            heartbeat_ms: self.heartbeat_ms,
            run: self.run.clone(),
        };
        if link.send(ToWorker::Welcome(welcome)).is_err() {
            return;
        }
        tracing::info!(%worker, name = %hello.worker_name, instance, pid = hello.pid, slots = hello.slots, "worker joined");
        self.connections.insert(connection, worker);
        self.names.insert(hello.worker_name.clone(), Standing::Welcome);
        let slots = hello.slots.max(1);
        self.workers.insert(
            worker,
            Worker {
                link,
                name: hello.worker_name,
                host,
                port: u32::from(port),
                slots,
                draining: false,
                drain_wait: None,
                running: HashMap::new(),
                plans: HashSet::new(),
                shuffle_bytes: 0,
            },
        );
        self.step(Event::WorkerJoined { worker, slots });
    }

    fn on_message(&mut self, worker: WorkerId, message: FromWorker) {
        match message {
            FromWorker::Hello(_) => {}
            FromWorker::Heartbeat(Heartbeat { shuffle_bytes_sent, .. }) => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.shuffle_bytes = shuffle_bytes_sent;
                }
                self.step(Event::Heartbeat { worker });
            }
            FromWorker::TaskFinished(TaskFinished { task, output }) => self.finished(worker, TaskId(task), &output),
            FromWorker::TaskFailed(failed) => self.failed(worker, failed),
            FromWorker::Draining(draining) => {
                tracing::info!(%worker, reason = %draining.reason, "worker drains");
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.draining = true;
                }
                self.step(Event::WorkerDraining { worker });
            }
        }
    }

    fn finished(&mut self, worker: WorkerId, task: TaskId, output: &[u8]) {
        let report = match TaskReport::decode(output) {
            Ok(mut report) => {
                // As readers of it are told by halving.
                report.partitions.sort_by_key(|written| written.partition);
                report
            }
            Err(error) => {
                let message = format!("the worker's report cannot be read: {error}");
                let failure = Failure::Infrastructure { message };
                return self.step(Event::TaskFailed { worker, task, failure });
            }
        };
        let sizes = report.partitions.iter().map(|written| PartitionSize {
            partition: written.partition,
            rows: written.rows,
            bytes: written.bytes,
        });
        let output = sizes.collect();
        tracing::debug!(%worker, %task, "task reported");
        self.remember(worker, task, report);
        self.step(Event::TaskFinished { worker, task, output });
    }

    /// Keeps what a task reported, for the tasks that will read its output.
    fn remember(&mut self, worker: WorkerId, task: TaskId, report: TaskReport) {
        // A task that is not running here any more was counted when it was.
        let run = self
            .workers
            .get_mut(&worker)
            .and_then(|worker| worker.running.remove(&task));
        if let Some(run) = run.and_then(|run| self.runs.get_mut(&run)) {
            run.counters.rows_read += report.rows_read;
            run.counters.spilled_bytes += report.spilled_bytes;
            run.reports.insert(task, report);
        }
    }

    fn failed(&mut self, worker: WorkerId, failed: TaskFailed) {
        let TaskFailed {
            task,
            message,
            from_worker,
            lost_task,
            payload,
            ..
        } = &failed;
        let task = TaskId(*task);
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.running.remove(&task);
        }
        let failure = match (failed.kind(), from_worker, lost_task) {
            (FailureKind::Fetch, Some(from), Some(lost)) => Failure::FetchFailed {
                from_worker: WorkerId(*from),
                lost_task: TaskId(*lost),
            },
            (FailureKind::Resources | FailureKind::Fetch, _, _) => Failure::Infrastructure {
                message: message.clone(),
            },
            (FailureKind::Cancelled, _, _) => Failure::Cancelled,
            (kind, _, _) => {
                let problem = std::str::from_utf8(payload).unwrap_or_default();
                let message = if problem.is_empty() {
                    message.clone()
                } else {
                    problem.to_owned()
                };
                Failure::Application {
                    message,
                    retryable: kind == FailureKind::External,
                }
            }
        };
        tracing::info!(%worker, %task, ?failure, "task failed");
        self.step(Event::TaskFailed { worker, task, failure });
    }

    fn closed(&mut self, worker: WorkerId, cause: &control::CloseCause) {
        tracing::info!(%worker, %cause, "a worker's control stream ended");
        let (cause, state) = match self.workers.get(&worker) {
            // It said that it would leave. However it went, by itself or killed for taking too long, nobody is to blame.
            Some(gone) if gone.draining => (CloseCause::Drained, WorkerState::Left),
            gone => {
                let detail = gone.map_or_else(|| cause.to_string(), |gone| format!("{} ({cause})", gone.name));
                (CloseCause::Died { detail }, WorkerState::Lost)
            }
        };
        // Before the scheduler's fence, which would call it lost whatever the cause.
        self.forget(worker, state);
        self.step(Event::WorkerClosed { worker, cause });
    }

    /// Whoever runs the workers says that one is gone. What it has not said for itself by now, it never will.
    pub(super) fn on_loss(&mut self, lost: WorkerLost) {
        let WorkerLost { name, known } = lost;
        let standing = self.names.get_mut(&name);
        // Who asked may not wait for the answer.
        let _ = known.send(standing.is_some());
        let Some(standing) = standing else { return };
        *standing = Standing::Gone;
        let named = self.workers.iter().filter(|(_, worker)| worker.name == name);
        for worker in named.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.step(Event::WorkerClosed {
                worker,
                cause: CloseCause::Gone,
            });
        }
    }

    /// Tells draining workers, and the log, what is still needed of them, if that has changed.
    pub(super) fn tell_drains(&mut self) {
        for (id, worker) in self.workers.iter_mut().filter(|(_, worker)| worker.draining) {
            let wait = self.schedule.drain_wait(*id);
            let Some(DrainWait {
                running,
                outputs_needed,
            }) = wait.filter(|_| wait != worker.drain_wait)
            else {
                continue;
            };
            worker.drain_wait = wait;
            tracing::info!(worker = %id, tasks_running = running, outputs_needed, "a draining worker is needed");
            // A worker that is gone needs to know nothing.
            drop(worker.link.send(ToWorker::Drain(Drain {
                tasks_running: running,
                outputs_needed,
            })));
        }
    }

    pub(super) fn forget(&mut self, id: WorkerId, state: WorkerState) {
        let Some(worker) = self.workers.remove(&id) else { return };
        self.connections.remove(&worker.link.connection());
        if self.gone.len() == WORKERS_GONE_MAX {
            self.gone.remove(0);
        }
        self.gone.push(worker.report(id, state));
    }
}

/// The host as it stands in a URI, where a literal of IPv6 is in brackets, and the port.
fn host_and_port(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let bare = host.trim_matches(['[', ']']);
    match bare.parse::<Ipv6Addr>() {
        Ok(_) => Some((format!("[{bare}]"), port)),
        Err(_) if bare.is_empty() || bare.contains([':', '[', ']']) => None,
        Err(_) => Some((bare.to_owned(), port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (address, host) in [
            ("10.0.0.7:7071", Some("10.0.0.7")),
            ("worker-1.revenue:7071", Some("worker-1.revenue")),
            ("[fd00::7]:7071", Some("[fd00::7]")),
            // What a worker says that puts no brackets.
            ("fd00::7:7071", Some("[fd00::7]")),
            ("[::ffff:10.0.0.7]:7071", Some("[::ffff:10.0.0.7]")),
            (":7071", None),
            ("10.0.0.7", None),
            ("10.0.0.7:port", None),
            ("a:b:7071", None),
        ] {
            let found = host_and_port(address);
            assert_eq!(found, host.map(|host| (host.to_owned(), 7071)), "{address}");
        }
    }
}
