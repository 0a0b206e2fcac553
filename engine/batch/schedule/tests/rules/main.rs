//! The rules of the core, one test each, at its public edge: given, when, then.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are test code, which the lint does not see"
)]

mod bench;
mod blame;
mod leaving;
mod loss;
mod placement;
mod versions;
