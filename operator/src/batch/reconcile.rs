//! One visit to one job: look, decide, and do what was decided.
//!
//! A first look takes what the watches know and costs nothing. If it finds something to do, a second one asks the API server,
//! and only what follows from that is done: nothing is made, ended or given up on the word of a cache.

use futures::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Secret};

use super::build::{self, JobSecret, SecretError, Settings};
use super::decide::{Plan, PodOrder, Refused, decide, refuse, reject, without_sql};
use super::seen::{PodState, Seen, see};
use super::validate::{ValidJob, rejected, validate, words};
use crate::api::batch_job::{AnyBatchJob, BatchJob};
use crate::api::condition::Reason;
use crate::api::status::{BatchJobStatus, JobState};
use crate::cluster::{Cluster, Failure, Follow};
use crate::names::{self, JobKey, PodRole, RUN_ANNOTATION, label};

/// Requests that one visit has under way at a time.
const SIDE_BY_SIDE: usize = 16;

/// How often a ConfigMap is looked for that is not there: nobody tells us when it comes.
const LOOK_FOR_SQL: SignedDuration = SignedDuration::from_secs(5);

/// When to come again, beside the next time that something is heard.
pub type Next = Option<Timestamp>;

/// Why a visit was broken off. It is made again.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    #[error(transparent)]
    Cluster(#[from] Failure),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// A job as it was seen, and what is to be done about it.
struct Look {
    object: BatchJob,
    job: ValidJob,
    before: BatchJobStatus,
    plan: Plan,
    driver: Option<DriverPod>,
}

/// The pod of the driver that is at work.
#[derive(Clone)]
struct DriverPod {
    attempt: u32,
    uid: String,
    ip: String,
}

/// Visits the job called `key`.
///
/// # Errors
/// A request that came to nothing. What was done is not undone: the next visit finds it.
pub async fn visit(cluster: &dyn Cluster, settings: &Settings, key: &JobKey) -> Result<Next, VisitError> {
    let Some(cached) = cluster.cached(key) else {
        cluster.forget(key);
        return Ok(None);
    };
    let pods = cached.pods.iter().map(|pod| &**pod);
    let first = match look(cluster, key, &cached.job, pods) {
        Looked::Quiet => return Ok(None),
        Looked::Rejected => None,
        Looked::At(look) => Some(look),
    };
    if let Some(look) = first {
        if look.changes_nothing() {
            follow(cluster, &look).await?;
            return Ok(look.plan.next);
        }
        if look.brings_only_progress() {
            cluster.write_status(&look.object, &look.plan.status).await?;
            return Ok(look.plan.next);
        }
    }
    let Some(object) = cluster.job(key).await? else {
        return Ok(None);
    };
    let pods = cluster.pods(key).await?;
    match look(cluster, key, &object, &pods) {
        Looked::Quiet => Ok(None),
        Looked::Rejected => reject_job(cluster, &object).await,
        Looked::At(look) => carry_out(cluster, settings, look).await,
    }
}

enum Looked {
    /// There is nothing to do about it.
    Quiet,
    /// It cannot be run.
    Rejected,
    At(Box<Look>),
}

fn look<'a>(
    cluster: &dyn Cluster,
    key: &JobKey,
    object: &AnyBatchJob,
    pods: impl IntoIterator<Item = &'a Pod> + Clone,
) -> Looked {
    let Ok(object) = &object.0 else {
        return Looked::Rejected;
    };
    if object.metadata.deletion_timestamp.is_some() {
        // What it owns goes with it.
        cluster.forget(key);
        return Looked::Quiet;
    }
    let job = match validate(object) {
        Ok(job) => job,
        Err(problems) => match rejected(object, &problems) {
            Some(job) => job,
            None => return Looked::Rejected,
        },
    };
    // Attempts begin anew with each run: the end of one run must not be taken for that of the next.
    let said = cluster.report(key).filter(|said| said.run == job.run);
    let seen = see(pods.clone(), &job.run, said.map(|said| (said.attempt, said.report)));
    let before = object.status.clone().unwrap_or_default();
    let plan = decide(&job, &before, &seen, cluster.now());
    let driver = driver_pod(&seen, pods);
    Looked::At(Box::new(Look {
        object: object.clone(),
        job,
        before,
        plan,
        driver,
    }))
}

fn driver_pod<'a>(seen: &Seen, pods: impl IntoIterator<Item = &'a Pod>) -> Option<DriverPod> {
    let (attempt, pod) = seen.drivers.last_key_value()?;
    if !matches!(pod.state, PodState::Running { .. }) {
        return None;
    }
    let ip = pods
        .into_iter()
        .find(|other| other.metadata.uid.as_ref() == Some(&pod.uid))?;
    Some(DriverPod {
        attempt: *attempt,
        uid: pod.uid.clone(),
        ip: ip.status.as_ref()?.pod_ip.clone()?,
    })
}

impl Look {
    fn orders_nothing(&self) -> bool {
        let Plan { make, end, remove, .. } = &self.plan;
        make.is_empty() && end.is_empty() && !remove
    }

    fn changes_nothing(&self) -> bool {
        self.orders_nothing() && self.plan.status == self.before
    }

    /// Whether all that is new comes from the driver's own report, which no cache has aged.
    fn brings_only_progress(&self) -> bool {
        let without = |status: &BatchJobStatus| BatchJobStatus {
            progress: None,
            progress_time: None,
            first_task_time: None,
            tasks_rerun: 0,
            result: None,
            last_error: None,
            ..status.clone()
        };
        self.orders_nothing() && without(&self.plan.status) == without(&self.before)
    }
}

/// Says why a job cannot be run.
async fn reject_job(cluster: &dyn Cluster, object: &AnyBatchJob) -> Result<Next, VisitError> {
    match &object.0 {
        Err(unreadable) => cluster.write_unreadable(unreadable).await?,
        Ok(object) => {
            let problems = validate(object).err().unwrap_or_default();
            let before = object.status.clone().unwrap_or_default();
            let (status, notes) = reject(object, &before, &words(&problems), cluster.now());
            if status != before {
                cluster.write_status(object, &status).await?;
                cluster.publish(object, &notes).await;
            }
        }
    }
    Ok(None)
}

/// Does what was decided: makes, writes down, ends, removes.
async fn carry_out(cluster: &dyn Cluster, settings: &Settings, look: Box<Look>) -> Result<Next, VisitError> {
    let mut look = look;
    let key = look.job.key.clone();
    if !look.plan.make.is_empty() {
        let refused = match prepare(cluster, settings, &look).await? {
            Prepared::Ready => make(cluster, settings, &look).await?,
            Prepared::NoSql { name } => return no_sql(cluster, &look, &name).await,
            Prepared::Refused { reason, message } => all_refused(&look.plan, reason, &message),
        };
        refuse(&look.job, &mut look.plan, &refused, cluster.now());
    }
    let Look {
        object, before, plan, ..
    } = &*look;
    if plan.status != *before {
        cluster.write_status(object, &plan.status).await?;
    }
    if !plan.gone.is_empty() {
        cluster.tell_lost(&key, &plan.gone);
    }
    let mut ending = Vec::new();
    for pod in &plan.end {
        ending.push(cluster.delete_pod(&key.namespace, pod));
    }
    let ended: Vec<_> = stream::iter(ending).buffer_unordered(SIDE_BY_SIDE).collect().await;
    cluster.publish(object, &plan.notes).await;
    ended.into_iter().collect::<Result<(), Failure>>()?;
    if plan.remove {
        cluster.delete_job(object).await?;
    }
    follow(cluster, &look).await?;
    Ok(look.plan.next)
}

/// Makes the pods of the plan, and says which of them the cluster refused.
async fn make(cluster: &dyn Cluster, settings: &Settings, look: &Look) -> Result<Vec<Refused>, VisitError> {
    let (job, plan) = (&look.job, &look.plan);
    let mut refused = Vec::new();
    // The driver first: where there is room for some pods only, it has to be among them.
    for role in [PodRole::Driver, PodRole::Executor] {
        let mut making = Vec::new();
        for order in plan.make.iter().filter(|order| order.role == role) {
            making.push(make_pod(cluster, build::pod(job, settings, order), order.clone()));
        }
        let made: Vec<_> = stream::iter(making).buffer_unordered(SIDE_BY_SIDE).collect().await;
        for (order, made) in made {
            match made {
                Err(failure @ Failure::Exists { .. }) if is_of_another_run(cluster, job, &order).await? => {
                    return Err(failure.into());
                }
                // One that exists was made by a visit that was broken off.
                Ok(()) | Err(Failure::Exists { .. }) => {}
                Err(Failure::Refused { quota, message, .. }) => refused.push(Refused {
                    reason: refused_by(quota),
                    order,
                    message,
                }),
                Err(failure) => return Err(failure.into()),
            }
        }
        if !refused.is_empty() {
            break;
        }
    }
    Ok(refused)
}

fn refused_by(quota: bool) -> Reason {
    match quota {
        true => Reason::QuotaExceeded,
        false => Reason::PodRefused,
    }
}

/// Without what they refer to, no pods of the plan are asked for.
fn all_refused(plan: &Plan, reason: Reason, message: &str) -> Vec<Refused> {
    let driver = plan.make.iter().find(|order| order.role == PodRole::Driver);
    let orders = driver.map_or(&plan.make[..], std::slice::from_ref);
    let refused = |order: &PodOrder| Refused {
        order: order.clone(),
        reason,
        message: message.to_owned(),
    };
    orders.iter().map(refused).collect()
}

async fn make_pod(cluster: &dyn Cluster, pod: Pod, order: PodOrder) -> (PodOrder, Result<(), Failure>) {
    let made = cluster.create_pod(&pod).await;
    (order, made)
}

/// Whether the name is still, or again, that of a pod of another run. It has to go first, and is no attempt of this one.
async fn is_of_another_run(cluster: &dyn Cluster, job: &ValidJob, order: &PodOrder) -> Result<bool, Failure> {
    let name = names::pod(&job.key.name, order.role, order.number);
    let pods = cluster.pods(&job.key).await?;
    let run = |pod: &Pod| pod.metadata.labels.as_ref()?.get(label::RUN).cloned();
    Ok(pods
        .iter()
        .any(|pod| pod.metadata.name.as_ref() == Some(&name) && run(pod).as_ref() != Some(&job.run)))
}

/// How what pods refer to stands.
enum Prepared {
    Ready,
    NoSql { name: String },
    Refused { reason: Reason, message: String },
}

impl Prepared {
    fn taken(what: &str) -> Prepared {
        Prepared::Refused {
            reason: Reason::NameTaken,
            message: format!("{what} is there already, and is not this job's"),
        }
    }
}

/// Gets or makes what the pods of the plan refer to.
async fn prepare(cluster: &dyn Cluster, settings: &Settings, look: &Look) -> Result<Prepared, VisitError> {
    let prepared = match dereference(cluster, settings, &look.job).await {
        Ok(Prepared::Ready) => apply_service(cluster, look).await.map_err(VisitError::from),
        other => other,
    };
    match prepared {
        Err(VisitError::Cluster(Failure::Refused { what, quota, message })) => Ok(Prepared::Refused {
            reason: refused_by(quota),
            message: format!("{what}: {message}"),
        }),
        prepared => prepared,
    }
}

/// Leads executors to the last driver, whether it is to be made or is there: what somebody has removed or changed is put right.
async fn apply_service(cluster: &dyn Cluster, look: &Look) -> Result<Prepared, Failure> {
    let attempt = look.plan.status.driver.attempt;
    match cluster.apply_service(&build::service(&look.job, attempt)).await {
        Ok(()) => Ok(Prepared::Ready),
        Err(Failure::Conflict { .. }) => {
            let name = names::service(&look.job.key.name);
            Ok(Prepared::taken(&format!("Service {name}")))
        }
        Err(failure) => Err(failure),
    }
}

/// Gets or makes the job's Secret. Whoever loses the race for it takes what the other has made.
async fn dereference(cluster: &dyn Cluster, settings: &Settings, job: &ValidJob) -> Result<Prepared, VisitError> {
    let namespace = &job.key.namespace;
    let name = names::secret(&job.key.name);
    let old = cluster.secret(namespace, &name).await?;
    if let Some(secret) = old.as_ref().filter(|secret| is_of_run(secret, job)) {
        if let Some(renewed) = build::renewed(job, secret, cluster.system_time())? {
            cluster.replace_secret(&renewed).await?;
        }
        return Ok(Prepared::Ready);
    }
    if old.as_ref().is_some_and(|secret| !is_of_job(secret, job)) {
        return Ok(Prepared::taken(&format!("Secret {name}")));
    }
    let from = job
        .spec
        .sql_from
        .as_ref()
        .and_then(|from| from.config_map_key_ref.as_ref());
    let sql = match from {
        None => None,
        Some(from) => {
            let map = cluster.config_map(namespace, &from.name).await?;
            let text = map.and_then(|map| map.data?.remove(&from.key));
            let Some(text) = text else {
                let name = format!("key {} of ConfigMap {}", from.key, from.name);
                return Ok(Prepared::NoSql { name });
            };
            Some(text)
        }
    };
    let mut secret = build::secret(job, settings, sql, cluster.token(), cluster.system_time())?;
    match old {
        Some(old) => {
            secret.metadata.resource_version = old.metadata.resource_version;
            cluster.replace_secret(&secret).await?;
        }
        None => match cluster.create_secret(&secret).await {
            Ok(()) | Err(Failure::Exists { .. }) => {}
            Err(failure) => return Err(failure.into()),
        },
    }
    Ok(Prepared::Ready)
}

/// Whether it was made by an operator for a job of this name.
fn is_of_job(secret: &Secret, job: &ValidJob) -> bool {
    let labels = secret.metadata.labels.as_ref();
    let label = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
    label(label::MANAGED_BY) == Some(names::MANAGER) && label(label::JOB) == Some(&job.key.name)
}

/// Whether it was written for this run of this very object.
fn is_of_run(secret: &Secret, job: &ValidJob) -> bool {
    let annotations = secret.metadata.annotations.as_ref();
    let run = annotations.and_then(|annotations| annotations.get(RUN_ANNOTATION));
    run == Some(&job.run) && JobSecret::read(secret).is_some()
}

async fn no_sql(cluster: &dyn Cluster, look: &Look, name: &str) -> Result<Next, VisitError> {
    let now = cluster.now();
    let message = format!("{name} does not exist: {}", Reason::SqlNotFound.remedy());
    let (status, notes) = without_sql(&look.job, &look.before, &message, now);
    if status != look.before {
        cluster.write_status(&look.object, &status).await?;
        cluster.publish(&look.object, &notes).await;
    }
    Ok(Some(now + LOOK_FOR_SQL))
}

/// Follows what the driver says, from the moment it has an address.
async fn follow(cluster: &dyn Cluster, look: &Look) -> Result<(), VisitError> {
    let key = &look.job.key;
    let state = look.plan.status.state;
    if state.is_some_and(|state| state.is_terminal() || state == JobState::Suspended) {
        cluster.forget(key);
        return Ok(());
    }
    let Some(driver) = &look.driver else { return Ok(()) };
    if cluster.follows(key, &driver.uid) {
        return Ok(());
    }
    let Some(secret) = cluster.secret(&key.namespace, &names::secret(&key.name)).await? else {
        return Ok(());
    };
    if let Some(renewed) = build::renewed(&look.job, &secret, cluster.system_time())? {
        cluster.replace_secret(&renewed).await?;
    }
    if let Some(secret) = JobSecret::read(&secret) {
        cluster.follow(Follow {
            key: key.clone(),
            run: look.job.run.clone(),
            attempt: driver.attempt,
            pod_uid: driver.uid.clone(),
            pod_ip: driver.ip.clone(),
            secret,
        });
    }
    Ok(())
}
