//! Operators: the real visits, queue and index, over requests and watches that lose, delay and repeat.
//!
//! A visit is a future that is polled by the agenda, so that the world goes on, and another operator acts, between any two of
//! its requests.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use trireme_operator::api::batch_job::{AnyBatchJob, BatchJob};
use trireme_operator::api::status::BatchJobStatus;
use trireme_operator::batch::build::Settings;
use trireme_operator::batch::decide::{EndOrder, Note};
use trireme_operator::batch::reconcile::{Next, VisitError, visit};
use trireme_operator::cluster::index::{Index, Scope};
use trireme_operator::cluster::{Cached, Cluster, Failure, Follow, Said};
use trireme_operator::names::{JobKey, MANAGER, label as labels};
use trireme_operator::queue::{Queue, Visited};
use trireme_spec::pods::ImagePullPolicy;
use trireme_spec::report::JobReport;

use crate::api::Origin;
use crate::store::{Change, has_ended, label, uid_of};
use crate::world::{Happening, Kind, World, key, milliseconds, timestamp};

/// What an operator process knows, and how it asks for more.
pub(crate) struct Process {
    pub(crate) id: u64,
    world: Arc<Mutex<World>>,
    pub(crate) index: Index,
    book: Mutex<BTreeMap<JobKey, Followed>>,
    since_ms: AtomicI64,
    /// It is to die after so many writes.
    crash_after: Option<u64>,
    writes: Arc<Mutex<u64>>,
    pub(crate) dead: AtomicBool,
}

struct Followed {
    pod_uid: String,
    attempt: u32,
    run: String,
    report: Option<JobReport>,
}

/// One process as the agenda sees it.
pub(crate) struct Running {
    pub(crate) process: Arc<Process>,
    jobs: Watch<AnyBatchJob>,
    pods: Watch<Pod>,
    queue: Queue,
    settings: Arc<Settings>,
    visit: Option<(JobKey, Visit)>,
    wake_ms: Option<i64>,
    /// Nothing is due, as far as it was looked at.
    pub(crate) idle: bool,
}

type Visit = Pin<Box<dyn Future<Output = Result<Next, VisitError>> + Send>>;

/// What a watch has still to tell.
struct Watch<K> {
    position: usize,
    pending: VecDeque<Event<K>>,
    last: Option<Event<K>>,
    due: bool,
}

impl<K: Clone> Watch<K> {
    fn new() -> Watch<K> {
        Watch {
            position: 0,
            pending: VecDeque::new(),
            last: None,
            due: false,
        }
    }

    /// Tells everything as it is now, as after a 410.
    fn list(&mut self, all: impl Iterator<Item = K>, position: usize) {
        self.pending.clear();
        self.pending.push_back(Event::Init);
        self.pending.extend(all.map(Event::InitApply));
        self.pending.push_back(Event::InitDone);
        self.position = position;
        self.last = None;
    }
}

impl Running {
    pub(crate) fn new(
        id: u64,
        world: &Arc<Mutex<World>>,
        crash_after: Option<u64>,
        writes: &Arc<Mutex<u64>>,
    ) -> Running {
        let process = Process {
            id,
            world: Arc::clone(world),
            index: Index::new(&[Scope::AllNamespaces]),
            book: Mutex::default(),
            since_ms: AtomicI64::new(0),
            crash_after,
            writes: Arc::clone(writes),
            dead: AtomicBool::new(false),
        };
        // Each is an upgrade of the one before.
        let settings = Settings {
            image: format!("trireme:{id}"),
            ..settings()
        };
        let mut running = Running {
            process: Arc::new(process),
            settings: Arc::new(settings),
            jobs: Watch::new(),
            pods: Watch::new(),
            queue: Queue::default(),
            visit: None,
            wake_ms: None,
            idle: false,
        };
        running.list(&mut world.lock());
        running
    }

    /// Both watches begin anew.
    pub(crate) fn list(&mut self, world: &mut World) {
        self.list_jobs(world);
        self.list_pods(world);
    }

    fn list_jobs(&mut self, world: &World) {
        let jobs = world.store.jobs.values().map(|job| DeserializeGuard(Ok(job.clone())));
        self.jobs.list(jobs, world.store.job_log.len());
    }

    fn list_pods(&mut self, world: &World) {
        let pods = world.store.pods.values().filter(|pod| is_ours(pod)).cloned();
        self.pods.list(pods, world.store.pod_log.len());
    }

    /// Puts on the agenda what the watches have to tell.
    pub(crate) fn look(&mut self, world: &mut World) {
        let process = self.process.id;
        for (kind, due, behind) in [
            (
                Kind::Jobs,
                &mut self.jobs.due,
                !self.jobs.pending.is_empty() || self.jobs.position < world.store.job_log.len(),
            ),
            (
                Kind::Pods,
                &mut self.pods.due,
                !self.pods.pending.is_empty() || self.pods.position < world.store.pod_log.len(),
            ),
        ] {
            if behind && !*due {
                *due = true;
                let wait = match world.trouble(world.scenario.chaos.behind) {
                    true => world.dice.between(500, 15_000),
                    false => world.dice.between(2, 80),
                };
                world.later(wait, Happening::Deliver { process, kind });
            }
        }
    }

    /// A watch tells some of what it has to tell.
    pub(crate) fn deliver(&mut self, world: &mut World, kind: Kind) {
        let anew = world.trouble(world.scenario.chaos.anew);
        if anew {
            world.check.meet("watch began anew");
        }
        let mut count = world.dice.between(1, 4);
        let twice = world.trouble(world.scenario.chaos.twice);
        let mut named = Vec::new();
        match kind {
            Kind::Jobs => {
                self.jobs.due = false;
                if anew {
                    self.list_jobs(world);
                }
                if let Some(event) = self.jobs.last.clone().filter(|_| twice) {
                    named.extend(self.process.index.on_job(&Scope::AllNamespaces, event));
                }
                while count > 0
                    && let Some(event) = self.next_job(world)
                {
                    count -= 1;
                    self.jobs.last =
                        Some(event.clone()).filter(|event| matches!(event, Event::Apply(_) | Event::Delete(_)));
                    named.extend(self.process.index.on_job(&Scope::AllNamespaces, event));
                }
            }
            Kind::Pods => {
                self.pods.due = false;
                if anew {
                    self.list_pods(world);
                }
                if let Some(event) = self.pods.last.clone().filter(|_| twice) {
                    named.extend(self.process.index.on_pod(&Scope::AllNamespaces, event));
                }
                while count > 0
                    && let Some(event) = self.next_pod(world)
                {
                    count -= 1;
                    self.pods.last =
                        Some(event.clone()).filter(|event| matches!(event, Event::Apply(_) | Event::Delete(_)));
                    named.extend(self.process.index.on_pod(&Scope::AllNamespaces, event));
                }
            }
        }
        // The index keeps them in no order, and a seed has to fix everything.
        named.sort();
        self.idle = false;
        named.into_iter().for_each(|key| self.queue.name(key));
    }

    fn next_job(&mut self, world: &World) -> Option<Event<AnyBatchJob>> {
        if let Some(event) = self.jobs.pending.pop_front() {
            return Some(event);
        }
        let change = world.store.job_log.get(self.jobs.position)?;
        self.jobs.position += 1;
        Some(match change {
            Change::Put(job) => Event::Apply(DeserializeGuard(Ok(job.clone()))),
            Change::Gone(job) => Event::Delete(DeserializeGuard(Ok(job.clone()))),
        })
    }

    fn next_pod(&mut self, world: &World) -> Option<Event<Pod>> {
        if let Some(event) = self.pods.pending.pop_front() {
            return Some(event);
        }
        let change = world.store.pod_log.get(self.pods.position)?;
        self.pods.position += 1;
        Some(match change {
            Change::Put(pod) => Event::Apply(pod.clone()),
            Change::Gone(pod) => Event::Delete(pod.clone()),
        })
    }

    /// Hears what a driver says.
    pub(crate) fn hear(&mut self, uid: &str, report: JobReport) {
        let mut book = self.process.book.lock();
        for (key, followed) in book.iter_mut() {
            if followed.pod_uid == uid {
                followed.report = Some(report.clone());
                self.queue.name(key.clone());
                self.idle = false;
            }
        }
    }

    /// Everything is named, as if something had been heard of it.
    pub(crate) fn name_all(&mut self, world: &World) {
        for name in world.store.jobs.keys() {
            self.queue.name(key(name));
        }
        self.idle = false;
    }

    /// Begins a visit if none is under way and one is due.
    pub(crate) fn kick(&mut self) {
        if self.idle || self.visit.is_some() {
            return;
        }
        self.idle = true;
        let mut world = self.process.world.lock();
        let process = self.process.id;
        if let Some(key) = self.queue.take(timestamp(world.now_ms)) {
            self.process.since_ms.store(world.now_ms, Ordering::Relaxed);
            let (cluster, settings, of) = (Arc::clone(&self.process), Arc::clone(&self.settings), key.clone());
            let going: Visit = Box::pin(async move { visit(&*cluster, &settings, &of).await });
            self.visit = Some((key, going));
            world.later(1, Happening::Go { process });
        } else if let Some(time) = self.queue.next_time() {
            let at_ms = milliseconds(time).max(world.now_ms) + 1;
            if self
                .wake_ms
                .is_none_or(|wake_ms| at_ms < wake_ms || wake_ms <= world.now_ms)
            {
                self.wake_ms = Some(at_ms);
                world.at(at_ms, Happening::Wake { process });
            }
        }
    }

    /// The visit that is under way goes on.
    pub(crate) fn go(&mut self) {
        let Some((key, going)) = &mut self.visit else { return };
        let polled = going.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if self.process.dead.load(Ordering::Relaxed) {
            self.visit = None;
            return;
        }
        let mut world = self.process.world.lock();
        let now = timestamp(world.now_ms);
        match polled {
            Poll::Pending => {
                let wait = world.dice.between(1, 30);
                let process = self.process.id;
                world.later(wait, Happening::Go { process });
            }
            Poll::Ready(done) => {
                let visited = match done {
                    Ok(next) => {
                        let began = timestamp(self.process.since_ms.load(Ordering::Relaxed));
                        assert!(
                            next.is_none_or(|next| next > began),
                            "a visit asks for another one at once, and so will that"
                        );
                        Visited::Done(next)
                    }
                    Err(error) => {
                        if matches!(error, VisitError::Cluster(Failure::Conflict { .. })) {
                            world.check.meet("conflict");
                        }
                        world.say(|| format!("operator {} breaks off: {error}", self.process.id));
                        Visited::Failed
                    }
                };
                self.queue.done(key, visited, now);
                self.visit = None;
                self.idle = false;
            }
        }
    }
}

fn is_ours(pod: &Pod) -> bool {
    label(pod, labels::MANAGED_BY) == MANAGER && !label(pod, labels::JOB).is_empty()
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask<'a> {
    Read,
    Write,
    /// The pod of that name.
    MakePod(&'a str),
}

/// What becomes of a request.
enum Fate {
    Done,
    Lost,
    AnswerLost,
    Late(u64),
}

impl Process {
    /// A request is under way for a while.
    async fn travel(&self) {
        let mut rounds = {
            let mut world = self.world.lock();
            world.dice.between(0, 2)
        };
        poll_fn(|context| {
            if rounds == 0 {
                return Poll::Ready(());
            }
            rounds -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn fate(&self, world: &mut World, ask: Ask<'_>) -> Fate {
        let chaos = world.scenario.chaos;
        if world.now_ms < world.away_until_ms || world.trouble(chaos.lost) {
            world.check.meet("request lost");
            return Fate::Lost;
        }
        if ask != Ask::Read && world.trouble(chaos.answer_lost) {
            world.check.meet("answer lost");
            return Fate::AnswerLost;
        }
        let late_ms = if let Ask::MakePod(name) = ask
            && let Some(late_ms) = world.made_late.remove(name)
        {
            late_ms
        } else if ask != Ask::Read && world.trouble(chaos.late) {
            world.dice.between(50, 20_000)
        } else {
            return Fate::Done;
        };
        world.check.meet("request done late");
        world.check.unsteady = true;
        Fate::Late(late_ms)
    }

    async fn read<T>(&self, what: &str, read: impl FnOnce(&World) -> T + Send) -> Result<T, Failure> {
        self.travel().await;
        let mut world = self.world.lock();
        match self.fate(&mut world, Ask::Read) {
            Fate::Done => Ok(read(&world)),
            Fate::Lost | Fate::AnswerLost | Fate::Late(_) => Err(away(what)),
        }
    }

    async fn write(
        &self,
        what: &str,
        write: impl FnOnce(&mut World, Origin) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        self.ask(what, Ask::Write, write).await
    }

    async fn ask(
        &self,
        what: &str,
        ask: Ask<'_>,
        write: impl FnOnce(&mut World, Origin) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        self.travel().await;
        // Of requests side by side those after the last are not made.
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let (answer, dies) = {
            let mut world = self.world.lock();
            let origin = Origin {
                process: self.id,
                since_ms: self.since_ms.load(Ordering::Relaxed),
                late: false,
            };
            let answer = match self.fate(&mut world, ask) {
                Fate::Done => write(&mut world, origin),
                Fate::Lost => Err(away(what)),
                Fate::AnswerLost => {
                    _ = write(&mut world, origin);
                    Err(away(what))
                }
                Fate::Late(wait) => {
                    let origin = Origin { late: true, ..origin };
                    let late = Box::new(move |world: &mut World| _ = write(world, origin));
                    world.later(wait, Happening::Late(late));
                    Err(away(what))
                }
            };
            let mut writes = self.writes.lock();
            *writes += 1;
            let chance = world.scenario.chaos.dies;
            let dies = self.crash_after == Some(*writes) || world.trouble(chance);
            if dies {
                world.check.meet("operator died after a write");
                world.say(|| format!("operator {} dies after its write {what}", self.id));
            }
            (answer, dies)
        };
        if dies {
            self.dead.store(true, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
        answer
    }
}

fn away(what: &str) -> Failure {
    Failure::Away {
        what: what.to_owned(),
        message: "no answer".to_owned(),
    }
}

#[async_trait]
impl Cluster for Process {
    fn now(&self) -> Timestamp {
        timestamp(self.world.lock().now_ms)
    }

    fn system_time(&self) -> SystemTime {
        let milliseconds = self.now().as_millisecond();
        SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds.unsigned_abs())
    }

    fn token(&self) -> String {
        format!("token-{}", self.world.lock().order)
    }

    fn cached(&self, key: &JobKey) -> Option<Cached> {
        self.index.get(key)
    }

    async fn job(&self, key: &JobKey) -> Result<Option<AnyBatchJob>, Failure> {
        self.read("get BatchJob", |world| {
            let job = world.store.jobs.get(&key.name).cloned();
            job.map(|job| DeserializeGuard(Ok(job)))
        })
        .await
    }

    async fn pods(&self, key: &JobKey) -> Result<Vec<Pod>, Failure> {
        self.read("list pods", |world| {
            let pods = world.pods_of(&key.name).into_iter();
            pods.filter(|pod| is_ours(pod)).cloned().collect()
        })
        .await
    }

    async fn secret(&self, _namespace: &str, name: &str) -> Result<Option<Secret>, Failure> {
        self.read("get Secret", |world| world.store.secrets.get(name).cloned())
            .await
    }

    async fn config_map(&self, _namespace: &str, name: &str) -> Result<Option<ConfigMap>, Failure> {
        self.read("get ConfigMap", |world| world.store.config_maps.get(name).cloned())
            .await
    }

    async fn create_secret(&self, secret: &Secret) -> Result<(), Failure> {
        let secret = secret.clone();
        self.write("create Secret", move |world, origin| {
            world.create_secret(origin, &secret)
        })
        .await
    }

    async fn replace_secret(&self, secret: &Secret) -> Result<(), Failure> {
        let secret = secret.clone();
        self.write("replace Secret", move |world, origin| {
            world.replace_secret(origin, &secret)
        })
        .await
    }

    async fn apply_service(&self, service: &Service) -> Result<(), Failure> {
        let service = service.clone();
        self.write("apply Service", move |world, origin| {
            world.apply_service(origin, &service)
        })
        .await
    }

    async fn create_pod(&self, pod: &Pod) -> Result<(), Failure> {
        let pod = pod.clone();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let made = self
            .ask("create pod", Ask::MakePod(&name), move |world, origin| {
                world.create_pod(origin, &pod)
            })
            .await;
        if matches!(made, Err(Failure::Exists { .. })) {
            self.world.lock().check.meet("pod existed already");
        }
        made
    }

    async fn delete_pod(&self, _namespace: &str, pod: &EndOrder) -> Result<(), Failure> {
        let order = pod.clone();
        self.write("delete pod", move |world, origin| world.end_pod(origin, &order))
            .await
    }

    async fn write_status(&self, job: &BatchJob, status: &BatchJobStatus) -> Result<(), Failure> {
        let (job, status) = (job.clone(), status.clone());
        self.write("write status", move |world, origin| {
            world.write_status(origin, &job, &status)
        })
        .await
    }

    async fn write_unreadable(&self, object: &InvalidObject) -> Result<(), Failure> {
        let object = object.clone();
        self.write("write that it cannot be read", move |world, _| {
            world.store.write_unreadable(&object)
        })
        .await
    }

    async fn delete_job(&self, job: &BatchJob) -> Result<(), Failure> {
        let job = job.clone();
        self.write("delete BatchJob", move |world, origin| world.remove_job(origin, &job))
            .await
    }

    async fn publish(&self, _job: &BatchJob, _notes: &[Note]) {}

    fn report(&self, key: &JobKey) -> Option<Said> {
        let book = self.book.lock();
        let followed = book.get(key)?;
        Some(Said {
            run: followed.run.clone(),
            attempt: followed.attempt,
            report: followed.report.clone()?,
        })
    }

    fn follows(&self, key: &JobKey, pod_uid: &str) -> bool {
        let book = self.book.lock();
        book.get(key).is_some_and(|followed| followed.pod_uid == pod_uid)
    }

    fn follow(&self, driver: Follow) {
        let mut book = self.book.lock();
        let old = book.get(&driver.key).filter(|old| old.pod_uid == driver.pod_uid);
        let report = old.and_then(|old| old.report.clone());
        let followed = Followed {
            pod_uid: driver.pod_uid.clone(),
            attempt: driver.attempt,
            run: driver.run,
            report,
        };
        book.insert(driver.key, followed);
        let mut world = self.world.lock();
        if world.machines.is_heard(&driver.pod_uid) && world.machines.runs(&driver.pod_uid) {
            let report = world.machines.containers[&driver.pod_uid].driver.report.clone();
            if let Some(report) = report {
                let wait = world.dice.between(10, 500);
                let (process, uid, report) = (self.id, driver.pod_uid, Box::new(report));
                world.later(wait, Happening::Report { process, uid, report });
            }
        }
    }

    fn tell_lost(&self, key: &JobKey, executors: &[String]) {
        let followed = self.book.lock().contains_key(key);
        let mut world = self.world.lock();
        if followed && !executors.is_empty() {
            world.check.meet("driver told of a loss");
        }
        for name in executors {
            let pod = world.store.pods.get(name).filter(|pod| !has_ended(pod));
            let runs = pod.is_some_and(|pod| world.machines.runs(&uid_of(pod)));
            assert!(!runs, "{name} runs, and its driver is told that it does not");
        }
    }

    fn forget(&self, key: &JobKey) {
        self.book.lock().remove(key);
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        image: "trireme:test".to_owned(),
        image_pull_policy: ImagePullPolicy::IfNotPresent,
        storage: None,
        engine_log: "info".to_owned(),
    }
}
