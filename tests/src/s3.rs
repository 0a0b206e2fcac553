//! A real S3 server: versitygw over a temporary folder, on loopback, with one bucket.
//!
//! What is stored are files, so a test can look behind the protocol: objects lie under their keys, and open multipart
//! uploads in a folder of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::proc::listeners;
use crate::process::{Program, Running};
use crate::repository;
use crate::scratch::Scratch;

/// The first call may build the server.
const SETUP_LIMIT: Duration = Duration::from_secs(900);

/// What is awaited comes within seconds, or never.
const LIMIT: Duration = Duration::from_secs(60);

/// A server with an empty bucket. Dropping it ends it.
#[derive(Debug)]
pub struct S3Server {
    running: Running,
    address: SocketAddr,
    folder: Scratch,
}

impl S3Server {
    /// The one bucket.
    pub const BUCKET: &str = "bucket";
    /// The key that is let in.
    pub const ACCESS_KEY: &str = "TESTACCESSKEY";
    /// Its secret: must appear in no output.
    pub const SECRET_KEY: &str = "hunter2-hunter2-hunter2";

    /// Starts a server on a port that the system chooses.
    pub fn start() -> S3Server {
        let folder = Scratch::new();
        let data = folder.path().join("data");
        fs::create_dir_all(data.join(Self::BUCKET)).unwrap_or_else(|error| panic!("no room for a bucket: {error}"));
        let arguments = ["--port", "127.0.0.1:0", "--keep-alive", "posix"].map(PathBuf::from);
        let mut running = Program::new(binary(), arguments.into_iter().chain([data]))
            .variable("ROOT_ACCESS_KEY", Self::ACCESS_KEY)
            .variable("ROOT_SECRET_KEY", Self::SECRET_KEY)
            .spawn();
        running.wait_for("the start of the S3 server", LIMIT, |line| {
            line.text.contains("listening on")
        });
        let deadline = Instant::now() + LIMIT;
        let address = loop {
            if let Some(address) = listeners(running.pid()).first() {
                break *address;
            }
            assert!(Instant::now() < deadline, "the S3 server does not listen");
            std::thread::yield_now();
        };
        S3Server {
            running,
            address,
            folder,
        }
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `program` with the variables that lead to this server and let it in.
    pub fn reached_by(&self, program: Program) -> Program {
        program
            .variable("AWS_ENDPOINT_URL_S3", self.endpoint())
            .variable("AWS_ALLOW_HTTP", "true")
            .variable("AWS_REGION", "us-east-1")
            .variable("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY)
            .variable("AWS_SECRET_ACCESS_KEY", Self::SECRET_KEY)
    }

    /// A folder with files for `--credentials` that do the same.
    pub fn credentials(&self, scratch: &Scratch) -> PathBuf {
        let files = [
            ("access-key-id", Self::ACCESS_KEY),
            ("secret-access-key", Self::SECRET_KEY),
            ("endpoint", &self.endpoint()),
            ("region", "us-east-1"),
            ("allow-http", "true"),
        ];
        for (name, content) in files {
            scratch.write(&format!("credentials/{name}"), format!("{content}\n"));
        }
        scratch.path().join("credentials")
    }

    /// Blocks until the server has answered a request whose line in its log meets `condition`:
    /// `200 | 1.2ms | 127.0.0.1 | PUT | /bucket/key | - | uploadId=...`.
    pub fn wait_until(&mut self, awaited: &str, condition: impl Fn(&str) -> bool) {
        self.running.wait_for(awaited, LIMIT, |line| condition(&line.text));
    }

    /// Sends it a signal: a stopped server keeps whoever talks to it waiting.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Names of the objects under `prefix`, without it, in order.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let folder = self.object(prefix);
        let mut keys: Vec<_> = files(&folder)
            .iter()
            .map(|path| {
                let name = path.strip_prefix(&folder).expect("it was found in there");
                name.to_string_lossy().into_owned()
            })
            .collect();
        keys.sort_unstable();
        keys
    }

    /// An object's text as JSON.
    pub fn json(&self, key: &str) -> Value {
        let text = fs::read(self.object(key)).unwrap_or_else(|error| panic!("{key}: {error}"));
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{key}: {error}"))
    }

    /// Puts an object behind the server's back.
    pub fn put(&self, key: &str, content: impl AsRef<[u8]>) {
        self.folder.write(&format!("data/{}/{key}", Self::BUCKET), content);
    }

    /// Multipart uploads that are neither completed nor aborted.
    pub fn open_uploads(&self) -> Vec<PathBuf> {
        // A folder for each key, and in it one for each upload.
        let keys = entries(&self.object(".sgwtmp/multipart"));
        keys.iter().flat_map(|key| entries(key)).collect()
    }

    fn object(&self, key: &str) -> PathBuf {
        self.folder.path().join("data").join(Self::BUCKET).join(key)
    }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = entries(folder).into_iter();
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// What lies in a folder; nothing where there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let path = |entry: std::io::Result<fs::DirEntry>| entry.map(|entry| entry.path());
    let paths: std::io::Result<_> = entries.map(path).collect();
    paths.unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let setup = Program::new(repository().join("tests/s3/setup.sh"), [""; 0])
            .whole_environment()
            .limit(SETUP_LIMIT)
            .run()
            .succeeded();
        PathBuf::from(setup.stdout.trim_end())
    })
}
