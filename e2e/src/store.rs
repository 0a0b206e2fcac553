//! An object store that pods and the story both reach: `TRIREME_E2E_S3` is its endpoint as pods see it, with keys that are
//! test data.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use serde_json::{Value, json};

use crate::lab::Lab;

/// Keys of the test's object store: whatever `e2e/run` started it with.
const ACCESS_KEY: &str = "trireme-e2e";
const SECRET_KEY: &str = "trireme-e2e-secret";

/// A bucket, with a Secret for it in the story's namespace.
pub struct Store {
    endpoint: String,
    prefix: String,
}

impl Store {
    /// A folder of its own in the bucket, and the Secret `s3` with the keys.
    pub async fn open(lab: &Lab) -> Store {
        Store::open_as(lab, "s3").await
    }

    /// The same, with a Secret of another name.
    pub async fn open_as(lab: &Lab, secret: &str) -> Store {
        let endpoint = std::env::var("TRIREME_E2E_S3").expect("TRIREME_E2E_S3 names the object store: see e2e/run");
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(secret.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(
                files(&endpoint)
                    .map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())))
                    .into(),
            ),
            ..Secret::default()
        };
        let created = lab.api::<Secret>().create(&PostParams::default(), &secret).await;
        created.expect("a Secret can be made");
        Store {
            endpoint,
            prefix: format!("s3://e2e/{}", lab.namespace),
        }
    }

    /// The URL of something in it.
    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// Fields of a job that works on it and keeps its journal there.
    pub fn fields(&self) -> Value {
        json!({ "credentials": { "name": "s3" }, "storage": self.url("storage") })
    }

    /// The rows of a query over what is in it, as JSON, read by this machine.
    pub fn query(&self, sql: &str) -> Value {
        self.try_query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, for what may not be there.
    ///
    /// # Errors
    /// What the engine says.
    pub fn try_query(&self, sql: &str) -> Result<Value, String> {
        let folder = std::env::temp_dir().join(format!("trireme-e2e-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
        for (name, text) in files(&self.endpoint) {
            std::fs::write(folder.join(name), text).expect("a file can be written to a folder of our own");
        }
        let path = folder.display().to_string();
        let printed =
            crate::process::engine(&["sql", "--quiet", "--output", "json", "--credentials", &path, "-c", sql]);
        drop(std::fs::remove_dir_all(&folder));
        let printed = printed?;
        let last = printed.lines().last().unwrap_or_default();
        let result: Value = serde_json::from_str(last).map_err(|error| format!("{printed}: {error}"))?;
        Ok(result["rows"].clone())
    }
}

fn files(endpoint: &str) -> [(&'static str, String); 5] {
    [
        ("access-key-id", ACCESS_KEY.to_owned()),
        ("secret-access-key", SECRET_KEY.to_owned()),
        ("endpoint", endpoint.to_owned()),
        ("region", "us-east-1".to_owned()),
        ("allow-http", "true".to_owned()),
    ]
}
