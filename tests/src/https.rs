//! A client of the http ports that is none of ours.

use std::ffi::OsString;
use std::path::Path;

use crate::process::Program;

/// What a caller of an http port trusts and shows.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The certificate of the authority to trust, and the name to look for; without them, a caller that checks nothing and
    /// asks for no name, as a kubelet's probe.
    pub trusts: Option<(&'a Path, &'a str)>,
    /// The bearer token to show.
    pub token: Option<&'a str>,
}

impl Caller<'_> {
    /// What is at `path` of `port` on the loopback: the answer with its head.
    pub fn get(&self, port: u16, path: &str) -> String {
        self.request("GET", port, path)
    }

    /// As [`Caller::get`], for another method. There is no body.
    pub fn request(&self, method: &str, port: u16, path: &str) -> String {
        const CLIENT: &str = r#"
import socket, ssl, sys
method, port, path, ca, name, token = sys.argv[1:]
if ca:
    context = ssl.create_default_context(cafile=ca)
else:
    context = ssl._create_unverified_context()
with context.wrap_socket(socket.create_connection(("127.0.0.1", int(port))), server_hostname=name or None) as tls:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    if method != "GET":
        head += "Content-Length: 0\r\n"
    tls.sendall((head + "\r\n").encode())
    print(tls.makefile().read())
"#;
        let (ca, name) = self
            .trusts
            .map_or_else(<(OsString, &str)>::default, |(ca, name)| (ca.into(), name));
        let arguments: [OsString; 8] = [
            "-c".into(),
            CLIENT.into(),
            method.into(),
            port.to_string().into(),
            path.into(),
            ca,
            name.into(),
            self.token.unwrap_or_default().into(),
        ];
        Program::new("python3", arguments).run().succeeded().stdout
    }
}

/// The status of an answer.
pub fn status_of(answer: &str) -> u16 {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let status = status.and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("{answer:?} is no answer"))
}

/// The body of an answer.
pub fn body_of(answer: &str) -> &str {
    answer.split_once("\n\n").map_or("", |(_, body)| body)
}
