//! What every role of the engine stands on: time, certificates, object stores, logs.
//!
//! Owns the edge to the machine: the clock, files that change while we run, TLS material, credentials. Never knows
//! of jobs' plans, of Kubernetes, or of the wire protocol; nothing here opens a listening socket.

pub mod clock;
pub mod reload;
pub mod store;
pub mod telemetry;
pub mod tls;
