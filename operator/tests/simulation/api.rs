//! What an operator asks of the API server: each request is judged, then done. Whether it arrives is decided elsewhere.

use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use trireme_operator::api::batch_job::BatchJob;
use trireme_operator::api::status::BatchJobStatus;
use trireme_operator::batch::decide::EndOrder;
use trireme_operator::cluster::Failure;
use trireme_operator::names::{PodRole, label as labels};

use crate::check::Cause;
use crate::kubelet::{Container, Life};
use crate::store::{has_ended, label, uid_of};
use crate::world::{Happening, World};

/// Who asks, and since when it thinks what it thinks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) process: u64,
    pub(crate) since_ms: i64,
    /// Done long after its sender has given it up.
    pub(crate) late: bool,
}

impl World {
    pub(crate) fn create_pod(&mut self, origin: Origin, pod: &Pod) -> Result<(), Failure> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let what = format!("create Pod {name}");
        let role = match label(pod, labels::ROLE) {
            "driver" => PodRole::Driver,
            _ => PodRole::Executor,
        };
        if let Some((quota, message)) = self.refuses(pod) {
            self.check.refused(label(pod, labels::RUN), role);
            return Err(Failure::Refused {
                what,
                quota,
                message: message.to_owned(),
            });
        }
        let made = self.store.create_pod(pod, self.now_ms);
        if made.is_err()
            && let Some(other) = self.store.pods.get(&name)
            && label(other, labels::JOB).is_empty()
        {
            let number = label(pod, labels::NUMBER).parse().unwrap_or_default();
            self.check.taken(label(pod, labels::RUN), role, number, uid_of(other));
        }
        let made = made?;
        let uid = uid_of(&made);
        self.say(|| format!("operator {} creates {name} as {uid}", origin.process));
        let container = container(self.job_index(label(pod, labels::JOB)), role, pod, &made);
        self.check
            .judge_pod(&self.store, origin, self.now_ms, &made, &container);
        self.machines.containers.insert(uid.clone(), container);
        let late_ms = match role {
            PodRole::Driver => 0,
            PodRole::Executor => self.scenario.executors_late_ms,
        };
        let wait = late_ms + self.dice.between(20, 300);
        self.later(wait, Happening::Schedule(uid));
        self.garbage();
        Ok(())
    }

    /// Whether a pod is refused, by a quota or not, and in which words. Nobody looks whether it is there before that.
    fn refuses(&self, pod: &Pod) -> Option<(bool, &'static str)> {
        let spec = pod.spec.as_ref().expect("a pod has a spec");
        let active = self.store.pods.values().filter(|pod| !has_ended(pod)).count();
        if spec.containers.is_empty() {
            return Some((false, "spec.containers: Required value"));
        }
        if spec.service_account_name.is_some() {
            return Some((false, "there are no service accounts"));
        }
        if self.policy {
            return Some((false, "admission webhook denied the request"));
        }
        let full = self.quota.is_some_and(|quota| active >= quota);
        full.then_some((true, "exceeded quota: pods"))
    }

    pub(crate) fn end_pod(&mut self, origin: Origin, order: &EndOrder) -> Result<(), Failure> {
        let Some(pod) = self.store.pods.get(&order.name) else {
            return Ok(());
        };
        if uid_of(pod) != order.uid {
            return Ok(());
        }
        let pod = pod.clone();
        self.say(|| format!("operator {} deletes {} {}", origin.process, order.name, order.uid));
        let run = self.run_of(label(&pod, labels::JOB));
        self.check.judge_end(&self.store, origin, run.as_deref(), &pod);
        self.check.blame(&order.uid, Cause::Ours);
        self.delete_pod(&order.uid);
        Ok(())
    }

    pub(crate) fn write_status(
        &mut self,
        origin: Origin,
        job: &BatchJob,
        status: &BatchJobStatus,
    ) -> Result<(), Failure> {
        let name = job.metadata.name.clone().unwrap_or_default();
        let before = self
            .store
            .jobs
            .get(&name)
            .and_then(|job| job.status.clone())
            .unwrap_or_default();
        let written = self.store.write_status(job, status);
        self.say(|| match &written {
            Ok(_) => format!("operator {} writes {name}: {}", origin.process, short(status)),
            Err(failure) => format!("operator {} does not write: {failure}", origin.process),
        });
        if written? {
            let run = self.run_of(&name).unwrap_or_default();
            let committed = self.destination.committed(&run);
            let plan = &self.scenario.jobs[self.job_index(&name)];
            self.check.judge_status(
                origin,
                &self.store,
                &self.machines,
                self.now_ms,
                &self.store.jobs[&name],
                &before,
                committed == plan.statements,
            );
        }
        Ok(())
    }

    pub(crate) fn create_secret(&mut self, origin: Origin, secret: &Secret) -> Result<(), Failure> {
        self.store.create_secret(secret, self.now_ms)?;
        self.say(|| format!("operator {} creates the Secret", origin.process));
        assert!(secret.metadata.owner_references.is_some(), "a Secret without an owner");
        self.check.objects += 1;
        self.garbage();
        Ok(())
    }

    pub(crate) fn replace_secret(&mut self, origin: Origin, secret: &Secret) -> Result<(), Failure> {
        self.store.replace_secret(secret)?;
        self.say(|| format!("operator {} replaces the Secret", origin.process));
        self.garbage();
        Ok(())
    }

    pub(crate) fn apply_service(&mut self, origin: Origin, service: &Service) -> Result<(), Failure> {
        self.check.objects += u64::from(self.store.apply_service(service, self.now_ms));
        self.say(|| format!("operator {} applies the Service", origin.process));
        assert!(
            service.metadata.owner_references.is_some(),
            "a Service without an owner"
        );
        self.garbage();
        Ok(())
    }

    pub(crate) fn remove_job(&mut self, origin: Origin, of: &BatchJob) -> Result<(), Failure> {
        let name = of.metadata.name.as_deref().unwrap_or_default();
        let same = |job: &&BatchJob| {
            let asked = &of.metadata.resource_version;
            job.metadata.uid == of.metadata.uid && (asked.is_none() || job.metadata.resource_version == *asked)
        };
        if self.store.jobs.get(name).filter(same).is_none() {
            return Ok(());
        }
        self.say(|| format!("operator {} deletes {name}", origin.process));
        let run = self.run_of(name);
        self.check
            .judge_removal(&self.store.jobs[name], run.as_deref(), self.now_ms);
        self.delete_job(name, false);
        Ok(())
    }
}

fn container(job: usize, role: PodRole, asked: &Pod, made: &Pod) -> Container {
    let spec = asked.spec.as_ref().expect("a pod has a spec");
    let main = &spec.containers[0];
    let limits = main.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let memory = limits
        .and_then(|limits| limits.get("memory"))
        .expect("a pod has a limit");
    let memory: trireme_spec::quantity::Bytes = serde_json::from_value(memory.0.clone().into()).expect("it is bytes");
    let number = label(made, labels::NUMBER).parse().expect("a number is one");
    let run = label(made, labels::RUN).to_owned();
    if role == PodRole::Driver {
        let arguments = main.args.as_ref().expect("a driver has arguments");
        for wanted in [format!("--run={run}"), format!("--generation={number}")] {
            assert!(arguments.contains(&wanted), "a driver without {wanted}");
        }
    }
    Container {
        uid: uid_of(made),
        name: made.metadata.name.clone().unwrap_or_default(),
        job,
        role,
        number,
        run,
        memory_bytes: memory.get(),
        image: main.image.clone().expect("a container has an image"),
        machine: None,
        life: Life::Waiting,
        started_ms: None,
        told_to_end: false,
        driver: Default::default(),
        executor: Default::default(),
    }
}

/// A status on one line.
fn short(status: &BatchJobStatus) -> String {
    let (driver, executors, retries) = (&status.driver, &status.executors, &status.retries);
    let conditions = status.conditions.iter().map(|condition| {
        let sign = if format!("{:?}", condition.status) == "True" {
            '+'
        } else {
            '-'
        };
        format!("{sign}{:?}:{}", condition.kind, condition.reason)
    });
    format!(
        "{:?} gen {:?} run {} driver {}/{} executors {}/{} highest {} open [{}] leaving [{}] retries a{} i{} s{} m{} lost {} crashed {} {}",
        status.state,
        status.observed_generation,
        status.run.as_deref().unwrap_or("-"),
        driver.charged,
        driver.attempt,
        executors.ready,
        executors.desired,
        executors.highest,
        executors.open,
        executors.leaving,
        retries.application,
        retries.infrastructure,
        retries.scheduling,
        retries.out_of_memory,
        executors.lost,
        executors.crashed,
        conditions.collect::<Vec<_>>().join(" "),
    )
}
