//! What was written to the API server, by its audit log. Only the project's own cluster has one where a test can read it.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use serde_json::Value;

/// The log from some moment on.
pub struct Audit {
    path: PathBuf,
    from: u64,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub verb: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub code: u64,
}

impl Audit {
    /// The log from now on; `None` on a cluster that has none here.
    pub fn begin() -> Option<Audit> {
        let path = PathBuf::from(std::env::var_os("KUBECONFIG")?)
            .parent()?
            .join("audit.log");
        let from = std::fs::metadata(&path).ok()?.len();
        Some(Audit { path, from })
    }

    /// The writes of the operator since then, in their order.
    pub fn writes(&self) -> Vec<Write> {
        let mut log = File::open(&self.path).expect("the audit log was there a moment ago");
        log.seek(SeekFrom::Start(self.from))
            .expect("a file can be read from anywhere");
        let lines = BufReader::new(log).lines().map_while(Result::ok);
        lines
            .filter_map(|line| serde_json::from_str(&line).ok())
            .filter_map(|entry: Value| of_operator(&entry))
            .collect()
    }
}

fn of_operator(entry: &Value) -> Option<Write> {
    let user = entry["user"]["username"].as_str()?;
    if !user.contains("trireme-operator") && !user.ends_with(":trireme") {
        return None;
    }
    let object = &entry["objectRef"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(Write {
        verb: text(&entry["verb"]),
        resource: text(&object["resource"]),
        subresource: text(&object["subresource"]),
        namespace: text(&object["namespace"]),
        name: text(&object["name"]),
        code: entry["responseStatus"]["code"].as_u64().unwrap_or_default(),
    })
}
