//! How the processes of a job reach one another.
//!
//! Owns every listening socket and every dialled connection of the engine: the walls of TLS around them, their limits,
//! the control stream between driver and workers, and the http port. Never looks into what it carries: plans, task
//! outputs and session settings are bytes here.

pub mod bytes_count;
pub mod connect;
pub mod control;
pub mod http;
pub mod limits;
pub mod serve;
pub mod wire;

#[cfg(test)]
mod tests;
