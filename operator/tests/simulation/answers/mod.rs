//! The model's answers, held against those of a real API server.
//!
//! One script puts the same questions to either. What a real one answers is kept in `recorded.txt`, a line for each question.
//! The model has to answer like that, and so has every cluster that the stories run on: whatever the simulation proves, it
//! proves for an API server that answers so.
//!
//! `TRIREME_RECORD=1` has the test on a cluster write the file anew; read the difference.

mod kubernetes;
mod model;
mod script;

use std::{env, fs};

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use trireme_operator::cluster::Cluster;
use trireme_operator::cluster::index::Index;

use kubernetes::Real;
use model::Model;

const RECORDED: &str = include_str!("recorded.txt");

/// Kinds of objects that the script looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Job,
    Pod,
    Secret,
    Service,
}

/// What the script needs beside the requests of an operator: a look at what is there, and what people, the scheduler and
/// kubelets do meanwhile.
#[async_trait]
trait Surroundings: Sync {
    fn cluster(&self) -> &dyn Cluster;
    /// One whose API server does not answer.
    fn cut_off(&self) -> Box<dyn Cluster>;
    fn namespace(&self) -> &str;
    /// What `cluster` takes for told by its watches: there are none here.
    fn index(&self) -> &Index;

    async fn look(&self, kind: Kind, name: &str) -> Option<ObjectMeta>;
    /// Waits until the object that was looked at is no more.
    async fn until_gone(&self, kind: Kind, name: &str, seen: &ObjectMeta);

    async fn make_job(&self, name: &str, spec: Value);
    async fn change_job(&self, name: &str, spec: Value);
    async fn delete_job(&self, name: &str);
    /// In the foreground. It stays, marked, until it is let go.
    async fn mark_job(&self, name: &str);
    async fn let_job_go(&self, name: &str);
    async fn make_config_map(&self, name: &str);
    async fn delete_secret(&self, name: &str);
    /// Makes a pod that is nobody's job's.
    async fn take_name(&self, pod: &str);
    /// Allows so many pods in the namespace, or any number. To be called again after a pod's end, which is counted later.
    async fn set_quota(&self, pods: Option<usize>);

    /// Puts a pod on a machine, of which nothing more is heard.
    async fn place(&self, pod: &str);
    /// A kubelet says that a pod has failed.
    async fn fail(&self, pod: &str);
    /// A kubelet takes a pod away that was told to go.
    async fn reap(&self, pod: &str);
}

#[tokio::test]
async fn the_model_answers_as_recorded() {
    assert_recorded(&script::put(&Model::new()).await);
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn a_cluster_answers_as_recorded() {
    let real = Real::open().await;
    let version = real.version().await;
    let answers = real.answers().await;
    if env::var_os("TRIREME_RECORD").is_none() {
        println!("the answers of Kubernetes {version}");
        return assert_recorded(&answers);
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/simulation/answers/recorded.txt");
    let text = format!(
        "# What Kubernetes {version} answered. Written by the test on a cluster with TRIREME_RECORD=1: do not edit.\n{}\n",
        answers.join("\n")
    );
    fs::write(file, text).expect("the recording can be written");
}

/// Of whatever version: what differs between versions has no place in the script.
fn assert_recorded(answers: &[String]) {
    let recorded: Vec<&str> = RECORDED.lines().skip(1).collect();
    let differences: Vec<String> = (0..recorded.len().max(answers.len()))
        .map(|line| (recorded.get(line).copied(), answers.get(line).map(String::as_str)))
        .filter(|(recorded, answered)| recorded != answered)
        .map(|(recorded, answered)| {
            let [recorded, answered] = [recorded, answered].map(|line| line.unwrap_or("nothing"));
            format!("recorded: {recorded}\nanswered: {answered}")
        })
        .collect();
    assert!(
        differences.is_empty(),
        "{} answers differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}
