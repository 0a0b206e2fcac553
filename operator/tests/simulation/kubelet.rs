//! Machines, and the pods on them. What a pod really does, and what its object says of it, are two things: the object is
//! behind by the kubelet's delay, and stays as it was while its machine is away.
//!
//! Statuses are as kubelet, node lifecycle and garbage collection of Kubernetes 1.33 write them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
    PodCondition,
};
use trireme_operator::names::{CONTAINER, PodRole, RUN_ANNOTATION, label as labels, secret};

use crate::check::Cause;
use crate::engine::{Driver, Executor, panicked};
use crate::scenario::{NO_IMAGE, Whose};
use crate::store::{has_ended, is_leaving, label, seconds, uid_of};
use crate::world::{Happening, World};

/// From the last word of a machine until its pods are told to leave: 40 s of grace, and 15 s that our pods put up with it.
const UNREACHABLE_MS: i64 = 55_000;

/// More than any job here asks for at once, so that drained ones leave room.
pub(crate) const MACHINES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Well,
    /// Takes nothing new.
    Cordoned,
    /// Its pods run on, and nobody hears of them.
    CutOff,
    Dead,
}

#[derive(Clone, Copy)]
pub(crate) struct Machine {
    pub(crate) health: Health,
    /// Counts its troubles, so that the end of one is not taken for that of the next.
    pub(crate) trouble: u32,
    tainted: bool,
}

/// The truth about one pod.
pub(crate) struct Container {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) job: usize,
    pub(crate) role: PodRole,
    pub(crate) number: u32,
    pub(crate) run: String,
    pub(crate) memory_bytes: u64,
    pub(crate) image: String,
    pub(crate) machine: Option<usize>,
    pub(crate) life: Life,
    pub(crate) started_ms: Option<i64>,
    pub(crate) told_to_end: bool,
    pub(crate) driver: Driver,
    pub(crate) executor: Executor,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Life {
    Waiting,
    Running,
    Ended(Exit),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) reason: &'static str,
    pub(crate) message: Option<String>,
    pub(crate) at_ms: i64,
}

impl Exit {
    pub(crate) fn killed() -> Exit {
        Exit {
            code: 137,
            reason: "Error",
            message: None,
            at_ms: 0,
        }
    }
}

pub(crate) struct Machines {
    pub(crate) all: [Machine; MACHINES],
    pub(crate) containers: BTreeMap<String, Container>,
    pub(crate) images: bool,
}

impl Default for Machines {
    fn default() -> Machines {
        let well = Machine {
            health: Health::Well,
            trouble: 0,
            tainted: false,
        };
        Machines {
            all: [well; MACHINES],
            containers: BTreeMap::new(),
            images: true,
        }
    }
}

impl Machines {
    pub(crate) fn is_heard(&self, uid: &str) -> bool {
        let machine = self.containers.get(uid).and_then(|container| container.machine);
        machine.is_some_and(|machine| matches!(self.all[machine].health, Health::Well | Health::Cordoned))
    }

    pub(crate) fn runs(&self, uid: &str) -> bool {
        self.containers
            .get(uid)
            .is_some_and(|container| container.life == Life::Running)
    }
}

/// What a pod takes of the room of its machine.
fn room(role: PodRole) -> usize {
    match role {
        PodRole::Driver => 1,
        PodRole::Executor => 4,
    }
}

impl World {
    /// The scheduler finds a machine.
    pub(crate) fn schedule(&mut self, uid: &str) {
        if self.store.pod(uid).is_none_or(|pod| is_leaving(pod) || has_ended(pod)) {
            return;
        }
        // That one is away is not known before it is marked.
        let wanted = self
            .machines
            .containers
            .get(uid)
            .map_or(0, |container| room(container.role));
        let open: Vec<usize> = (0..MACHINES)
            .filter(|number| {
                let machine = &self.machines.all[*number];
                let taken = self.taken(*number);
                machine.health != Health::Cordoned && !machine.tainted && taken + wanted <= self.scenario.room
            })
            .collect();
        let Some(machine) = self.dice.pick(&open) else {
            let condition = condition("PodScheduled", "False", "Unschedulable", "0/4 nodes are available");
            if !has_condition(self.store.pod(uid), "PodScheduled", "False") {
                self.store.update_pod(uid, |pod| put_condition(pod, condition));
            }
            let wait = self.dice.between(2_000, 6_000);
            return self.later(wait, Happening::Schedule(uid.to_owned()));
        };
        if let Some(container) = self.machines.containers.get_mut(uid) {
            container.machine = Some(machine);
        }
        let scheduled = condition("PodScheduled", "True", "", "");
        self.store.update_pod(uid, |pod| put_condition(pod, scheduled));
        let wait = self.dice.between(30, 1_200);
        self.later(wait, Happening::Start(uid.to_owned()));
    }

    /// What the pods of a machine hold of its room, as far as the scheduler knows.
    fn taken(&self, machine: usize) -> usize {
        let there = self.store.pods.values().filter(|pod| !has_ended(pod));
        let containers = there.filter_map(|pod| self.machines.containers.get(&uid_of(pod)));
        containers
            .filter(|container| container.machine == Some(machine))
            .map(|container| room(container.role))
            .sum()
    }

    /// The kubelet starts it, when it has what it needs.
    pub(crate) fn start(&mut self, uid: &str) {
        let waits = |container: &Container| container.life == Life::Waiting;
        if !self.machines.is_heard(uid) || !self.machines.containers.get(uid).is_some_and(waits) {
            return;
        }
        let Some(pod) = self.store.pod(uid).filter(|pod| !is_leaving(pod) && !has_ended(pod)) else {
            return;
        };
        let secret = self.store.secrets.get(&secret(label(pod, labels::JOB)));
        let annotations = secret.and_then(|secret| secret.metadata.annotations.as_ref());
        let of_run = annotations
            .and_then(|annotations| annotations.get(RUN_ANNOTATION))
            .cloned();
        let has_image = self.machines.images && self.machines.containers[uid].image != NO_IMAGE;
        if !has_image || of_run.is_none() {
            if !has_image {
                self.check.meet("image pull failed");
                self.store.update_pod(uid, |pod| {
                    let waiting = ContainerStateWaiting {
                        reason: Some("ImagePullBackOff".to_owned()),
                        message: Some("Back-off pulling image".to_owned()),
                    };
                    let state = ContainerState {
                        waiting: Some(waiting),
                        ..ContainerState::default()
                    };
                    put_container(pod, "Pending", state, false);
                });
            }
            let wait = self.dice.between(1_000, 4_000);
            return self.later(wait, Happening::Start(uid.to_owned()));
        }
        let ip = format!("10.0.0.{}", self.order % 250);
        let now_ms = self.now_ms;
        self.store.update_pod(uid, |pod| {
            let started_at = Some(seconds(now_ms));
            let state = ContainerState {
                running: Some(ContainerStateRunning { started_at }),
                ..ContainerState::default()
            };
            put_container(pod, "Running", state, false);
            pod.status.get_or_insert_default().pod_ip = Some(ip);
        });
        let container = self.machines.containers.get_mut(uid).expect("it waits");
        container.life = Life::Running;
        container.started_ms = Some(now_ms);
        self.check.started(uid, now_ms);
        let name = container.name.clone();
        assert!(
            self.check.unsteady || of_run.as_ref() == Some(&container.run),
            "{name} starts with the Secret of run {of_run:?}"
        );
        self.say(|| format!("{name} runs"));
        self.begin(uid);
    }

    /// The probe's answer gets into the status.
    pub(crate) fn probe(&mut self, uid: &str) {
        if !self.machines.is_heard(uid) || !self.machines.runs(uid) {
            return;
        }
        let Some(ready) = self.is_ready(uid) else { return };
        self.store.update_pod(uid, |pod| {
            let status = pod.status.get_or_insert_default();
            for container in status.container_statuses.iter_mut().flatten() {
                container.ready = ready;
            }
        });
    }

    /// The process ends.
    pub(crate) fn exit(&mut self, uid: &str, exit: Exit) {
        let Some(container) = self.machines.containers.get_mut(uid) else {
            return;
        };
        if matches!(container.life, Life::Ended(_)) {
            return;
        }
        let line = format!("{} ends: {} {}", container.name, exit.code, exit.reason);
        container.life = Life::Ended(Exit {
            at_ms: self.now_ms,
            ..exit
        });
        self.say(|| line);
        let wait = self.dice.between(20, 400);
        self.later(wait, Happening::Sync(uid.to_owned()));
    }

    /// The kubelet writes down how the process ended, and takes a pod away that was told to go.
    pub(crate) fn sync(&mut self, uid: &str) {
        if !self.machines.is_heard(uid) {
            return;
        }
        let Some(container) = self.machines.containers.get(uid) else {
            return;
        };
        let Some(pod) = self.store.pod(uid) else { return };
        let started_ms = container.started_ms;
        let Life::Ended(exit) = container.life.clone() else {
            // Nothing of it runs, or it has to be told.
            match container.life {
                Life::Waiting if is_leaving(pod) => self.store.remove_pod(uid),
                Life::Running if is_leaving(pod) || has_ended(pod) => self.terminate(uid),
                Life::Waiting | Life::Running | Life::Ended(_) => {}
            }
            return;
        };
        if !has_ended(pod) {
            self.store.update_pod(uid, |pod| {
                let phase = if exit.code == 0 { "Succeeded" } else { "Failed" };
                put_container(pod, phase, ended(&exit, started_ms), false);
            });
        }
        if self.store.pod(uid).is_some_and(is_leaving) {
            // Its volumes are taken down first.
            let wait = self.dice.between(20, 3_000);
            self.later(wait, Happening::Reap(uid.to_owned()));
        }
    }

    /// The kubelet has heard that a pod is to go.
    pub(crate) fn terminate(&mut self, uid: &str) {
        if !self.machines.is_heard(uid) {
            return;
        }
        let Some(container) = self.machines.containers.get_mut(uid) else {
            return;
        };
        match container.life {
            Life::Waiting | Life::Ended(_) => {
                let wait = self.dice.between(20, 300);
                self.later(wait, Happening::Reap(uid.to_owned()));
            }
            Life::Running if container.told_to_end => {}
            Life::Running => {
                container.told_to_end = true;
                let grace = match container.role {
                    PodRole::Driver => 30_000,
                    PodRole::Executor => 75_000,
                };
                self.tell_to_end(uid);
                self.later(grace, Happening::Kill(uid.to_owned()));
            }
        }
    }

    /// Whoever asks: the pod is to go, in order.
    pub(crate) fn delete_pod(&mut self, uid: &str) {
        let placed = self
            .machines
            .containers
            .get(uid)
            .is_some_and(|container| container.machine.is_some());
        if self.store.delete_pod(uid, placed, self.now_ms) {
            let wait = self.dice.between(20, 400);
            self.later(wait, Happening::Terminate(uid.to_owned()));
        }
    }

    fn disrupt(&mut self, uid: &str, reason: &str) {
        self.check.blame(uid, Cause::Infrastructure);
        let disrupted = condition("DisruptionTarget", "True", reason, "");
        self.store.update_pod(uid, |pod| put_condition(pod, disrupted));
    }

    /// Told to go by somebody else than us, in order.
    pub(crate) fn evict(&mut self, uid: &str, reason: &str) {
        if self.store.pod(uid).is_none_or(has_ended) {
            return;
        }
        self.say(|| format!("{uid} is evicted: {reason}"));
        self.disrupt(uid, reason);
        self.delete_pod(uid);
    }

    /// The kubelet ends it for want of something on its machine. The object stays.
    pub(crate) fn pressure(&mut self, uid: &str) {
        if self.store.pod(uid).is_none_or(has_ended) || !self.machines.is_heard(uid) {
            return;
        }
        self.say(|| format!("{uid} is ended by its machine"));
        self.disrupt(uid, "TerminationByKubelet");
        let container = self.machines.containers.get_mut(uid).expect("it has a machine");
        let ran = container.life == Life::Running;
        // Some machines say so in the status as a whole, too.
        let evicted = self.dice.percent(50);
        // Some are told a moment before, and fail over it.
        let exit = if self.dice.percent(50) {
            panicked(101)
        } else {
            Exit::killed()
        };
        let exit = Exit {
            at_ms: self.now_ms,
            ..exit
        };
        container.life = Life::Ended(exit.clone());
        let started_ms = container.started_ms;
        self.store.update_pod(uid, |pod| {
            if ran {
                put_container(pod, "Failed", ended(&exit, started_ms), false);
            }
            let status = pod.status.get_or_insert_default();
            status.phase = Some("Failed".to_owned());
            if evicted {
                status.reason = Some("Evicted".to_owned());
                status.message = Some("The node was low on resource: ephemeral-storage.".to_owned());
            }
        });
        self.sync(uid);
    }

    pub(crate) fn pods_on(&self, machine: usize) -> Vec<String> {
        let on = |container: &&Container| container.machine == Some(machine);
        let containers = self.machines.containers.values().filter(on);
        containers.map(|container| container.uid.clone()).collect()
    }

    pub(crate) fn machine_of(&mut self, job: usize, whose: Whose) -> Option<usize> {
        let uid = self.some_pod(job, whose)?;
        self.machines.containers[&uid].machine
    }

    pub(crate) fn machine_leaves(&mut self, machine: usize, health: Health) {
        if !matches!(self.machines.all[machine].health, Health::Well | Health::Cordoned) {
            return;
        }
        self.say(|| format!("machine {machine} is {health:?}"));
        let state = &mut self.machines.all[machine];
        state.health = health;
        state.trouble += 1;
        let trouble = state.trouble;
        self.later(UNREACHABLE_MS as u64, Happening::Taint { machine, trouble });
        if health == Health::Dead {
            for uid in self.pods_on(machine) {
                let container = self.machines.containers.get_mut(&uid).expect("it is on the machine");
                if container.life == Life::Running {
                    // What a runtime says of a process that it finds no more after a start of the machine.
                    let (code, reason) = match self.dice.percent(50) {
                        true => (255, "Unknown"),
                        false => (137, "ContainerStatusUnknown"),
                    };
                    container.life = Life::Ended(Exit {
                        code,
                        reason,
                        message: None,
                        at_ms: self.now_ms,
                    });
                    self.check.blame(&uid, Cause::Infrastructure);
                }
            }
        }
    }

    /// Nothing was heard of it for too long: its pods are told to go, which they do not hear.
    pub(crate) fn taint(&mut self, machine: usize, trouble: u32) {
        let state = &mut self.machines.all[machine];
        if state.trouble != trouble || matches!(state.health, Health::Well | Health::Cordoned) {
            return;
        }
        state.tainted = true;
        for uid in self.pods_on(machine) {
            if self
                .store
                .pod(&uid)
                .is_some_and(|pod| !has_ended(pod) && !is_leaving(pod))
            {
                self.evict(&uid, "DeletionByTaintManager");
            }
        }
    }

    pub(crate) fn machine_returns(&mut self, machine: usize) {
        self.say(|| format!("machine {machine} is back"));
        let state = &mut self.machines.all[machine];
        state.health = Health::Well;
        state.tainted = false;
        for uid in self.pods_on(machine) {
            match &self.machines.containers[&uid].life {
                Life::Waiting if self.store.pod(&uid).is_some_and(|pod| !is_leaving(pod)) => {
                    self.later(500, Happening::Start(uid));
                }
                Life::Running if self.store.pod(&uid).is_none() => self.exit(&uid, Exit::killed()),
                Life::Running => {
                    self.later(100, Happening::Probe(uid.clone()));
                    self.later(200, Happening::Sync(uid));
                }
                Life::Waiting | Life::Ended(_) => self.later(200, Happening::Sync(uid)),
            }
        }
    }

    /// The machine is struck off: pods that were on it are collected, wherever they may run on.
    pub(crate) fn machine_struck_off(&mut self, machine: usize) {
        self.say(|| format!("machine {machine} is struck off"));
        for uid in self.pods_on(machine) {
            if self.store.pod(&uid).is_some_and(|pod| !has_ended(pod)) {
                self.disrupt(&uid, "DeletionByPodGC");
                self.store.update_pod(&uid, |pod| {
                    pod.status.get_or_insert_default().phase = Some("Failed".to_owned());
                });
            }
            self.store.remove_pod(&uid);
        }
        // It comes back as a new one some time; what ran on it has ended then.
        self.later(60_000, Happening::Renewed { machine });
    }

    pub(crate) fn renewed(&mut self, machine: usize) {
        for uid in self.pods_on(machine) {
            if self.store.pod(&uid).is_none() {
                self.exit(&uid, Exit::killed());
            }
        }
        self.machine_returns(machine);
    }

    pub(crate) fn drain(&mut self, machine: usize) {
        let state = &mut self.machines.all[machine];
        if state.health != Health::Well {
            return;
        }
        state.health = Health::Cordoned;
        self.say(|| format!("machine {machine} is drained"));
        for uid in self.pods_on(machine) {
            if self
                .store
                .pod(&uid)
                .is_some_and(|pod| !has_ended(pod) && !is_leaving(pod))
            {
                self.evict(&uid, "EvictionByEvictionAPI");
            }
        }
    }

    /// A pod of a job that is not on its way out, if there is one.
    pub(crate) fn some_pod(&mut self, job: usize, whose: Whose) -> Option<String> {
        let name = self.scenario.jobs[job].name;
        let role = match whose {
            Whose::Driver => "driver",
            Whose::Executor => "executor",
        };
        let pods = self.store.pods.values();
        let uids: Vec<String> = pods
            .filter(|pod| label(pod, labels::JOB) == name && label(pod, labels::ROLE) == role)
            .filter(|pod| !has_ended(pod) && !is_leaving(pod))
            .map(uid_of)
            .collect();
        let chosen: Vec<usize> = (0..uids.len()).collect();
        let chosen = self.dice.pick(&chosen)?;
        Some(uids[chosen].clone())
    }
}

fn ended(exit: &Exit, started_ms: Option<i64>) -> ContainerState {
    // Of one that it finds no more, the kubelet does not know when it was there.
    let is_known = exit.reason != "ContainerStatusUnknown";
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: exit.code,
            reason: Some(exit.reason.to_owned()),
            message: exit.message.clone(),
            started_at: started_ms.filter(|_| is_known).map(seconds),
            finished_at: is_known.then(|| seconds(exit.at_ms)),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn put_container(pod: &mut Pod, phase: &str, state: ContainerState, ready: bool) {
    let status = pod.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.container_statuses = Some(vec![ContainerStatus {
        name: CONTAINER.to_owned(),
        ready,
        state: Some(state),
        ..ContainerStatus::default()
    }]);
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> PodCondition {
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..PodCondition::default()
    }
}

fn put_condition(pod: &mut Pod, condition: PodCondition) {
    let status = pod.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|old| old.type_ != condition.type_);
    conditions.push(condition);
}

fn has_condition(pod: Option<&Pod>, kind: &str, status: &str) -> bool {
    let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == kind && condition.status == status)
}
