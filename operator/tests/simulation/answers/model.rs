//! The script's surroundings in the model: no machine takes anything, and time goes on only when something is waited for.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use trireme_operator::cluster::Cluster;
use trireme_operator::cluster::index::Index;

use super::script::JOB;
use super::{Kind, Surroundings};
use crate::kubelet::Health;
use crate::operator::{Process, Running};
use crate::scenario::{JobPlan, Scenario};
use crate::store::{NAMESPACE, Store, uid_of};
use crate::world::World;

/// Collecting garbage takes seconds.
const PATIENCE_MS: i64 = 60_000;

pub(super) struct Model {
    world: Arc<Mutex<World>>,
    process: Arc<Process>,
}

impl Model {
    pub(super) fn new() -> Model {
        let scenario = Scenario::story(vec![JobPlan::new(JOB, 0, json!({}))], vec![]);
        let mut world = World::new(scenario, false);
        world.store = Store::default();
        for machine in &mut world.machines.all {
            machine.health = Health::Cordoned;
        }
        let world = Arc::new(Mutex::new(world));
        let process = Running::new(1, &world, None, &Arc::default()).process;
        Model { world, process }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    fn on_pod(&self, name: &str, act: impl FnOnce(&mut World, &str)) {
        let mut world = self.world();
        let uid = world.store.pods.get(name).map(uid_of);
        act(&mut world, &uid.expect("the pod is there"));
    }
}

fn look(store: &Store, kind: Kind, name: &str) -> Option<ObjectMeta> {
    match kind {
        Kind::Job => store.jobs.get(name).map(|job| job.metadata.clone()),
        Kind::Pod => store.pods.get(name).map(|pod| pod.metadata.clone()),
        Kind::Secret => store.secrets.get(name).map(|secret| secret.metadata.clone()),
        Kind::Service => store.services.get(name).map(|service| service.metadata.clone()),
    }
}

#[async_trait]
impl Surroundings for Model {
    fn cluster(&self) -> &dyn Cluster {
        &*self.process
    }

    fn cut_off(&self) -> Box<dyn Cluster> {
        let Model { world, process } = Model::new();
        world.lock().away_until_ms = i64::MAX;
        Box::new(Arc::into_inner(process).expect("nobody else has it"))
    }

    fn namespace(&self) -> &str {
        NAMESPACE
    }

    fn index(&self) -> &Index {
        &self.process.index
    }

    async fn look(&self, kind: Kind, name: &str) -> Option<ObjectMeta> {
        look(&self.world().store, kind, name)
    }

    async fn until_gone(&self, kind: Kind, name: &str, seen: &ObjectMeta) {
        let mut world = self.world();
        let end_ms = world.now_ms + PATIENCE_MS;
        while look(&world.store, kind, name).is_some_and(|found| found.uid == seen.uid) {
            let happening = world.next().filter(|_| world.now_ms < end_ms);
            world.happen(happening.unwrap_or_else(|| panic!("{kind:?} {name} does not go")));
        }
    }

    async fn make_job(&self, name: &str, spec: Value) {
        let spec = serde_json::from_value(spec).expect("it has the form of a spec");
        let mut world = self.world();
        let now_ms = world.now_ms;
        world.store.create_job(name, spec, now_ms);
    }

    async fn change_job(&self, name: &str, spec: Value) {
        let new = serde_json::from_value(spec).expect("it has the form of a spec");
        self.world().store.change_spec(name, |spec| *spec = new);
    }

    async fn delete_job(&self, name: &str) {
        self.world().delete_job(name, false);
    }

    async fn mark_job(&self, name: &str) {
        let mut world = self.world();
        let now_ms = world.now_ms;
        world.store.delete_job(name, true, now_ms);
    }

    async fn let_job_go(&self, _name: &str) {
        self.world().garbage();
    }

    async fn make_config_map(&self, name: &str) {
        let mut world = self.world();
        world.store.config_maps.insert(name.to_owned(), Default::default());
    }

    async fn delete_secret(&self, name: &str) {
        self.world().store.secrets.remove(name);
    }

    async fn take_name(&self, pod: &str) {
        self.world().take_name(pod);
    }

    async fn set_quota(&self, pods: Option<usize>) {
        self.world().quota = pods;
    }

    async fn place(&self, pod: &str) {
        self.on_pod(pod, |world, uid| {
            let container = world.machines.containers.get_mut(uid);
            container.expect("it is an operator's").machine = Some(0);
        });
    }

    async fn fail(&self, pod: &str) {
        self.on_pod(pod, |world, uid| {
            world.store.update_pod(uid, |pod| {
                pod.status.get_or_insert_default().phase = Some("Failed".to_owned());
            });
        });
    }

    async fn reap(&self, pod: &str) {
        self.on_pod(pod, |world, uid| world.store.remove_pod(uid));
    }
}
