//! The questions. Each is asked of objects that are looked at before and after; the answer is one line.
//!
//! The job is one that cannot be run. An operator that is installed on the cluster says so once, and leaves the job and all
//! that belongs to it alone from then on, whatever else its status says.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use trireme_operator::api::batch_job::BatchJob;
use trireme_operator::api::condition::{Condition, ConditionType, Reason, set};
use trireme_operator::api::status::{BatchJobStatus, JobState};
use trireme_operator::batch::build;
use trireme_operator::batch::decide::{EndOrder, PodOrder};
use trireme_operator::batch::reconcile::{VisitError, visit};
use trireme_operator::batch::validate::{ValidJob, validate};
use trireme_operator::cluster::index::Scope;
use trireme_operator::cluster::{Cluster, Failure};
use trireme_operator::names::{self, JobKey, PodRole};

use super::{Kind, Surroundings};
use crate::operator::settings;

/// The one job.
pub(super) const JOB: &str = "north";

/// No machine has this label: what its pods do depends on nobody but the script.
pub(super) const NOWHERE: &str = "trireme.dev/nowhere";

/// Asks everything, and returns a line for each question.
pub(super) async fn put(to: &dyn Surroundings) -> Vec<String> {
    let mut script = Script {
        to,
        cluster: to.cluster(),
        key: JobKey {
            namespace: to.namespace().to_owned(),
            name: JOB.to_owned(),
        },
        subject: (Kind::Job, JOB.to_owned()),
        answers: Vec::new(),
    };
    script.status().await;
    script.another_of_that_name().await;
    script.removal().await;
    script.marked().await;
    script.pods().await;
    script.placed_pods().await;
    script.room_for_pods().await;
    script.secrets().await;
    script.services().await;
    script.orphans().await;
    script.cut_off().await;
    script.answers
}

/// What the job asks for; that its template says how pods are restarted is what cannot be run.
fn spec(executors: u32) -> Value {
    json!({
        "sql": "SELECT 1",
        "executors": { "min": executors },
        "nodeSelector": { NOWHERE: "true" },
        "podTemplate": { "spec": { "restartPolicy": "Always" } },
        // Who removes a job looks at its time.
        "ttlSecondsAfterFinished": 0,
    })
}

struct Script<'a> {
    to: &'a dyn Surroundings,
    cluster: &'a dyn Cluster,
    key: JobKey,
    /// What is looked at before and after.
    subject: (Kind, String),
    answers: Vec<String>,
}

impl<'a> Script<'a> {
    async fn status(&mut self) {
        self.title("A job and its status");
        let (to, cluster) = (self.to, self.cluster);
        let none = self.read().await.is_none();
        self.note("a job that is not there is read", if none { "none" } else { "one" });
        self.about(Kind::Job, JOB);
        self.see("somebody makes the job", to.make_job(JOB, spec(1))).await;
        let made = self.settled().await;
        let first = with_progress(&made, "first");
        self.ask("its status is written", cluster.write_status(&made, &first))
            .await;
        let read = self.job().await;
        let same = read.status.as_ref() == Some(&first);
        self.note("it is read", if same { "as it was written" } else { "another one" });
        self.ask("the same status again", cluster.write_status(&read, &first))
            .await;
        self.ask(
            "the same status, with an old version",
            cluster.write_status(&made, &first),
        )
        .await;
        self.ask(
            "another status, with an old version",
            cluster.write_status(&made, &with_progress(&made, "second")),
        )
        .await;
        self.ask(
            "another status, without a version",
            cluster.write_status(&without_version(&read), &with_progress(&read, "third")),
        )
        .await;
        let read = self.job().await;
        self.see("somebody changes the spec to what it is", to.change_job(JOB, spec(1)))
            .await;
        self.see("somebody changes the spec", to.change_job(JOB, spec(2))).await;
        self.settled().await;
        self.ask(
            "a status, with an old version",
            cluster.write_status(&read, &with_progress(&read, "fourth")),
        )
        .await;
        self.see("somebody deletes the job", to.delete_job(JOB)).await;
        self.ask("a status", cluster.write_status(&read, &first)).await;
        self.ask(
            "a status that says that it cannot be read",
            cluster.write_unreadable(&unreadable(&read)),
        )
        .await;
        self.ask("it is removed", cluster.delete_job(&read)).await;
    }

    async fn another_of_that_name(&mut self) {
        self.title("Another job of that name");
        let (to, cluster) = (self.to, self.cluster);
        let old = self.begin().await;
        let seen = to.look(Kind::Job, JOB).await;
        to.delete_job(JOB).await;
        to.make_job(JOB, spec(1)).await;
        let new = self.settled().await;
        let now = to.look(Kind::Job, JOB).await;
        let facts = told(Kind::Job, seen.as_ref(), now.as_ref());
        self.note("somebody deletes the job and makes it again", &facts);
        self.about(Kind::Job, JOB);
        self.ask(
            "a status, with uid and version of the one before",
            cluster.write_status(&old, &with_progress(&old, "first")),
        )
        .await;
        let mut mixed = new.clone();
        mixed.metadata.uid.clone_from(&old.metadata.uid);
        self.ask(
            "with the uid of the one before, and the version of this one",
            cluster.write_status(&mixed, &with_progress(&old, "first")),
        )
        .await;
        self.ask(
            "with the uid of the one before, and no version",
            cluster.write_status(&without_version(&old), &with_progress(&old, "first")),
        )
        .await;
        self.ask("the one before is removed", cluster.delete_job(&old)).await;
        self.end().await;
    }

    async fn removal(&mut self) {
        self.title("A job that is removed");
        let cluster = self.cluster;
        let before = self.begin().await;
        self.write(&before, &complete(&before, cluster)).await;
        self.about(Kind::Job, JOB);
        self.ask("with an old version", cluster.delete_job(&before)).await;
        let job = self.job().await;
        self.ask("with the version that it has", cluster.delete_job(&job)).await;
        let before = self.begin().await;
        self.write(&before, &complete(&before, cluster)).await;
        self.ask(
            "another one, without a version",
            cluster.delete_job(&without_version(&before)),
        )
        .await;
    }

    async fn marked(&mut self) {
        self.title("A job that is deleted in the foreground");
        let (to, cluster) = (self.to, self.cluster);
        let job = self.begin().await;
        let pod = driver(&job, 1);
        cluster.create_pod(&pod).await.expect("there is room for a pod");
        let seen = self.there(Kind::Pod, &pod.name_any()).await;
        self.about(Kind::Job, JOB);
        self.see("somebody deletes it", to.mark_job(JOB)).await;
        self.ask(
            "a status, with an old version",
            cluster.write_status(&job, &with_progress(&job, "first")),
        )
        .await;
        let job = self.job().await;
        self.ask("a status", cluster.write_status(&job, &with_progress(&job, "first")))
            .await;
        let unread = unreadable(&job);
        self.ask(
            "a status that says that it cannot be read",
            cluster.write_unreadable(&unread),
        )
        .await;
        self.ask("the same again", cluster.write_unreadable(&unread)).await;
        let executor = executor(&job, 1);
        let name = executor.name_any();
        self.about(Kind::Pod, &name);
        self.ask("a pod of it is made", cluster.create_pod(&executor)).await;
        let late = self.there(Kind::Pod, &name).await;
        let marked = self.there(Kind::Job, JOB).await;
        to.let_job_go(JOB).await;
        to.until_gone(Kind::Job, JOB, &marked).await;
        to.until_gone(Kind::Pod, &pod.name_any(), &seen).await;
        to.until_gone(Kind::Pod, &name, &late).await;
        self.note("in a while it is let go", "gone, and its pods with it");
    }

    async fn pods(&mut self) {
        self.title("Pods");
        let (to, cluster) = (self.to, self.cluster);
        let job = self.begin().await;
        let pod = driver(&job, 1);
        let name = pod.name_any();
        let pods = self.listed().await;
        self.note("the pods of the job are read", &pods);
        self.about(Kind::Pod, &name);
        self.ask("one is made", cluster.create_pod(&pod)).await;
        let pods = self.listed().await;
        self.note("they are read again", &pods);
        self.ask("the same again", cluster.create_pod(&pod)).await;
        let this = self.end_order(&name).await;
        let other = EndOrder {
            uid: "00000000-0000-4000-8000-000000000000".to_owned(),
            ..this.clone()
        };
        self.ask("another of that name is ended", self.delete(&other)).await;
        self.ask("it is ended", self.delete(&this)).await;
        self.ask("it is ended again", self.delete(&this)).await;
        self.see("somebody takes its name", to.take_name(&name)).await;
        self.ask("it is made", cluster.create_pod(&pod)).await;
        let pods = self.listed().await;
        self.note("the pods of the job are read", &pods);
        self.ask("it is ended", self.delete(&this)).await;
        to.reap(&name).await;
        let mut empty = pod.clone();
        empty.spec.get_or_insert_default().containers.clear();
        self.ask("one without containers", cluster.create_pod(&empty)).await;
        let mut strange = pod.clone();
        strange.spec.get_or_insert_default().service_account_name = Some("nobody".to_owned());
        self.ask(
            "one of a service account that is not there",
            cluster.create_pod(&strange),
        )
        .await;
        cluster.create_pod(&pod).await.expect("there is room for a pod");
        self.ask("the same, by the name of one that is", cluster.create_pod(&strange))
            .await;
        self.end().await;
    }

    async fn placed_pods(&mut self) {
        self.title("Pods on a machine");
        let (to, cluster) = (self.to, self.cluster);
        let job = self.begin().await;
        let pod = driver(&job, 1);
        let name = pod.name_any();
        cluster.create_pod(&pod).await.expect("there is room for a pod");
        to.place(&name).await;
        let this = self.end_order(&name).await;
        self.about(Kind::Pod, &name);
        self.ask("one is ended", self.delete(&this)).await;
        self.ask("it is ended again", self.delete(&this)).await;
        let pods = self.listed().await;
        self.note("the pods of the job are read", &pods);
        self.ask("it is made again", cluster.create_pod(&pod)).await;
        self.see("it has failed", to.fail(&name)).await;
        self.see("its machine takes it away", to.reap(&name)).await;
        cluster.create_pod(&pod).await.expect("there is room for a pod");
        to.place(&name).await;
        self.see("another one has failed", to.fail(&name)).await;
        let this = self.end_order(&name).await;
        self.ask("it is ended", self.delete(&this)).await;
        self.end().await;
    }

    async fn room_for_pods(&mut self) {
        self.title("Room for one pod");
        let (to, cluster) = (self.to, self.cluster);
        let job = self.begin().await;
        to.set_quota(Some(1)).await;
        let [first, second] = [1, 2].map(|number| driver(&job, number));
        let (name, other) = (first.name_any(), second.name_any());
        self.about(Kind::Pod, &name);
        self.ask("a pod is made", cluster.create_pod(&first)).await;
        self.about(Kind::Pod, &other);
        self.ask("another one", cluster.create_pod(&second)).await;
        self.about(Kind::Pod, &name);
        self.ask("the first one again", cluster.create_pod(&first)).await;
        to.place(&name).await;
        let this = self.end_order(&name).await;
        self.ask("it is ended", self.delete(&this)).await;
        to.set_quota(Some(1)).await;
        self.about(Kind::Pod, &other);
        self.ask("another one", cluster.create_pod(&second)).await;
        self.about(Kind::Pod, &name);
        self.see("it has failed", to.fail(&name)).await;
        to.set_quota(Some(1)).await;
        self.about(Kind::Pod, &other);
        self.ask("another one", cluster.create_pod(&second)).await;
        to.reap(&name).await;
        to.set_quota(None).await;
        self.end().await;
    }

    async fn secrets(&mut self) {
        self.title("The Secret, and a ConfigMap");
        let (to, cluster) = (self.to, self.cluster);
        let job = self.begin().await;
        let name = names::secret(JOB);
        let secret = secret(&job, cluster);
        let none = self.secret().await.is_none();
        self.note("it is read", if none { "none" } else { "one" });
        self.about(Kind::Secret, &name);
        self.ask("it is replaced", cluster.replace_secret(&with_token(&secret, "first")))
            .await;
        self.ask("it is made", cluster.create_secret(&secret)).await;
        self.ask("it is made again", cluster.create_secret(&secret)).await;
        let made = self.secret().await.expect("it was made");
        let same = made.data == secret.data && made.metadata.annotations == secret.metadata.annotations;
        self.note("it is read", if same { "as it was made" } else { "another one" });
        self.ask("it is replaced by what it is", cluster.replace_secret(&made))
            .await;
        let made = self.secret().await.expect("it was made");
        self.ask("it is replaced", cluster.replace_secret(&with_token(&made, "first")))
            .await;
        self.ask(
            "with an old version",
            cluster.replace_secret(&with_token(&made, "second")),
        )
        .await;
        self.ask(
            "without a version",
            cluster.replace_secret(&with_token(&secret, "third")),
        )
        .await;
        let old = self.secret().await.expect("it was replaced");
        self.see("somebody deletes it", to.delete_secret(&name)).await;
        self.ask("it is replaced", cluster.replace_secret(&with_token(&old, "fourth")))
            .await;
        self.ask("it is made", cluster.create_secret(&secret)).await;
        self.ask(
            "with the version of the one before",
            cluster.replace_secret(&with_token(&old, "fifth")),
        )
        .await;
        let map = async || cluster.config_map(to.namespace(), "queries").await;
        let none = map().await.expect("the API server answers").is_none();
        self.note("a ConfigMap is read", if none { "none" } else { "one" });
        to.make_config_map("queries").await;
        let one = map().await.expect("the API server answers").is_some();
        self.note("somebody has made it, and it is read", if one { "one" } else { "none" });
        self.end().await;
    }

    async fn services(&mut self) {
        self.title("The Service");
        let cluster = self.cluster;
        let job = self.begin().await;
        let name = names::service(JOB);
        let [first, second] = [1, 2].map(|number| service(&job, number));
        self.about(Kind::Service, &name);
        self.ask("it is applied", cluster.apply_service(&first)).await;
        self.ask("the same again", cluster.apply_service(&first)).await;
        self.ask("that of the next driver", cluster.apply_service(&second))
            .await;
        self.end().await;
    }

    async fn orphans(&mut self) {
        self.title("What belonged to a job that is no more");
        let (to, cluster) = (self.to, self.cluster);
        let job = self.begin().await;
        let (pod, secret, service) = (driver(&job, 1), secret(&job, cluster), service(&job, 1));
        cluster.create_pod(&pod).await.expect("there is room for a pod");
        cluster.create_secret(&secret).await.expect("the name is free");
        cluster.apply_service(&service).await.expect("the name is free");
        let mut seen = Vec::new();
        let objects = [
            (Kind::Pod, pod.name_any()),
            (Kind::Secret, secret.name_any()),
            (Kind::Service, service.name_any()),
        ];
        for (kind, name) in &objects {
            seen.push(self.there(*kind, name).await);
        }
        to.delete_job(JOB).await;
        for ((kind, name), seen) in objects.iter().zip(&seen) {
            to.until_gone(*kind, name, seen).await;
        }
        self.note("in a while", "Pod, Secret and Service are gone");
        self.belated("a pod for it is made", &job).await;
        let new = self.begin().await;
        self.belated("one is made when there is another job of that name", &job)
            .await;
        cluster.create_pod(&driver(&new, 1)).await.expect("the name is free");
        self.note("in a while, one of that other job", "is there");
        self.end().await;
    }

    /// A pod is made that came too late.
    async fn belated(&mut self, question: &str, job: &BatchJob) {
        let (to, cluster) = (self.to, self.cluster);
        let pod = driver(job, 1);
        let name = pod.name_any();
        let answer = cluster.create_pod(&pod).await;
        // It may be gone before anybody looks.
        if let Some(seen) = to.look(Kind::Pod, &name).await {
            to.until_gone(Kind::Pod, &name, &seen).await;
        }
        self.note(question, &format!("{}, and gone in a while", word(&answer)));
    }

    async fn cut_off(&mut self) {
        self.title("An API server that does not answer");
        let away = self.to.cut_off();
        let answer = away.job(&self.key).await.map(drop);
        self.note("the job is read", word(&answer));
    }

    fn title(&mut self, title: &str) {
        self.answers.extend([String::new(), title.to_owned()]);
    }

    fn note(&mut self, question: &str, answer: &str) {
        self.answers.push(format!("- {question}: {answer}"));
    }

    /// What the questions that follow are about.
    fn about(&mut self, kind: Kind, name: &str) {
        self.subject = (kind, name.to_owned());
    }

    /// Asks, and notes the answer and what came of it.
    async fn ask(&mut self, question: &str, asking: impl Future<Output = Result<(), Failure>>) {
        let (answer, facts) = self.around(asking).await;
        self.note(question, &format!("{}; {facts}", word(&answer)));
    }

    /// Notes what comes of what others do.
    async fn see(&mut self, question: &str, acting: impl Future<Output = ()>) {
        let ((), facts) = self.around(acting).await;
        self.note(question, &facts);
    }

    async fn around<T>(&self, doing: impl Future<Output = T>) -> (T, String) {
        let (kind, name) = &self.subject;
        let before = self.to.look(*kind, name).await;
        let done = doing.await;
        let after = self.to.look(*kind, name).await;
        (done, told(*kind, before.as_ref(), after.as_ref()))
    }

    async fn there(&self, kind: Kind, name: &str) -> ObjectMeta {
        let seen = self.to.look(kind, name).await;
        seen.unwrap_or_else(|| panic!("{kind:?} {name} is not there"))
    }

    /// The job of one part of the script.
    async fn begin(&self) -> BatchJob {
        self.to.make_job(JOB, spec(1)).await;
        self.settled().await
    }

    /// Takes the job away, and what belongs to it.
    async fn end(&self) {
        let mut left = Vec::new();
        for (kind, name) in [
            (Kind::Pod, names::pod(JOB, PodRole::Driver, 1)),
            (Kind::Pod, names::pod(JOB, PodRole::Driver, 2)),
            (Kind::Secret, names::secret(JOB)),
            (Kind::Service, names::service(JOB)),
        ] {
            left.extend(self.to.look(kind, &name).await.map(|seen| (kind, name, seen)));
        }
        self.to.delete_job(JOB).await;
        for (kind, name, seen) in left {
            self.to.until_gone(kind, &name, &seen).await;
        }
    }

    async fn read(&self) -> Option<BatchJob> {
        let read = self.cluster.job(&self.key).await.expect("the API server answers");
        read.map(|job| job.0.expect("the job can be read"))
    }

    async fn job(&self) -> BatchJob {
        self.read().await.expect("the job is there")
    }

    /// The job, after its status says that it cannot be run. Whoever says so first, the script or an operator that is
    /// installed: the other one finds nothing to add.
    async fn settled(&self) -> BatchJob {
        loop {
            let job = self.cluster.job(&self.key).await.expect("the API server answers");
            self.to
                .index()
                .on_job(&Scope::AllNamespaces, Event::Apply(job.expect("the job is there")));
            match visit(self.cluster, &settings(), &self.key).await {
                Ok(_) => return self.job().await,
                Err(VisitError::Cluster(Failure::Conflict { .. })) => {}
                Err(error) => panic!("the job cannot be visited: {error}"),
            }
        }
    }

    async fn write(&self, job: &BatchJob, status: &BatchJobStatus) {
        let written = self.cluster.write_status(job, status).await;
        written.expect("nobody else changes the job");
    }

    async fn secret(&self) -> Option<Secret> {
        let secret = self.cluster.secret(&self.key.namespace, &names::secret(JOB)).await;
        secret.expect("the API server answers")
    }

    async fn listed(&self) -> String {
        let pods = self.cluster.pods(&self.key).await.expect("the API server answers");
        let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        }
    }

    async fn end_order(&self, pod: &str) -> EndOrder {
        EndOrder {
            name: pod.to_owned(),
            uid: self.there(Kind::Pod, pod).await.uid.unwrap_or_default(),
        }
    }

    fn delete<'b>(&self, pod: &'b EndOrder) -> impl Future<Output = Result<(), Failure>> + use<'a, 'b> {
        let (to, cluster) = (self.to, self.cluster);
        async move { cluster.delete_pod(to.namespace(), pod).await }
    }
}

fn word(answer: &Result<(), Failure>) -> &'static str {
    match answer {
        Ok(()) => "done",
        Err(Failure::Conflict { .. }) => "conflict",
        Err(Failure::NotFound { .. }) => "not found",
        Err(Failure::Exists { .. }) => "exists",
        Err(Failure::Refused { quota: true, .. }) => "refused by a quota",
        Err(Failure::Refused { quota: false, .. }) => "refused",
        Err(Failure::Away { .. }) => "away",
    }
}

/// What has become of an object.
fn told(kind: Kind, before: Option<&ObjectMeta>, after: Option<&ObjectMeta>) -> String {
    let (before, after) = match (before, after) {
        (None, None) => return "none there".to_owned(),
        (Some(_), None) => return "gone".to_owned(),
        (before, Some(after)) => (before, after),
    };
    let leaves = after.deletion_timestamp.is_some();
    let what = match before {
        None => "made",
        Some(before) if before.uid != after.uid => "another one",
        // As long as it is on no machine, the scheduler has its say.
        Some(_) if kind == Kind::Pod && !leaves => "there",
        Some(before) if before.resource_version == after.resource_version => "as it was",
        Some(_) => "changed",
    };
    let generation = after.generation.filter(|_| kind == Kind::Job);
    let generation = generation.map(|generation| format!(", generation {generation}"));
    format!(
        "{what}{}{}",
        generation.unwrap_or_default(),
        if leaves { ", to go" } else { "" }
    )
}

fn with_progress(job: &BatchJob, text: &str) -> BatchJobStatus {
    BatchJobStatus {
        progress: Some(text.to_owned()),
        ..job.status.clone().unwrap_or_default()
    }
}

fn without_version(job: &BatchJob) -> BatchJob {
    let mut job = job.clone();
    job.metadata.resource_version = None;
    job
}

/// The status of a job whose time after its end is over.
fn complete(job: &BatchJob, cluster: &dyn Cluster) -> BatchJobStatus {
    let mut status = BatchJobStatus {
        run: job.metadata.uid.clone(),
        state: Some(JobState::Complete),
        completion_time: Some(cluster.now()),
        ..job.status.clone().unwrap_or_default()
    };
    let condition = Condition {
        kind: ConditionType::Complete,
        status: true.into(),
        reason: Reason::AllStatementsDone.as_str().to_owned(),
        message: String::new(),
        last_transition_time: cluster.now(),
        observed_generation: job.metadata.generation,
    };
    set(&mut status.conditions, condition);
    status
}

fn unreadable(job: &BatchJob) -> InvalidObject {
    InvalidObject {
        error: "no field of this version".to_owned(),
        metadata: job.metadata.clone(),
    }
}

/// The job as it would be without what keeps it from being run.
fn valid(job: &BatchJob) -> ValidJob {
    let mut job = job.clone();
    job.spec.pod_template = None;
    validate(&job).expect("nothing else is wrong with it")
}

fn driver(job: &BatchJob, number: u32) -> Pod {
    pod(job, PodRole::Driver, number)
}

fn executor(job: &BatchJob, number: u32) -> Pod {
    pod(job, PodRole::Executor, number)
}

fn pod(job: &BatchJob, role: PodRole, number: u32) -> Pod {
    let memory = job.spec.driver.memory;
    let order = PodOrder {
        role,
        number,
        memory,
        image: None,
    };
    build::pod(&valid(job), &settings(), &order)
}

fn secret(job: &BatchJob, cluster: &dyn Cluster) -> Secret {
    let secret = build::secret(&valid(job), &settings(), None, cluster.token(), cluster.system_time());
    secret.expect("the name fits into a certificate")
}

fn with_token(secret: &Secret, token: &str) -> Secret {
    let mut secret = secret.clone();
    let token = ByteString(token.as_bytes().to_vec());
    let data = secret.data.get_or_insert_default();
    data.insert(names::secret_key::TOKEN.to_owned(), token);
    secret
}

fn service(job: &BatchJob, driver: u32) -> Service {
    build::service(&valid(job), driver)
}
