//! What a batch job must remember when its driver is killed, and how its results become visible at once or not at all.
//!
//! Two halves, which meet only in [`WriteId`] and [`Generation`]:
//!
//! - [`journal`]: the append-only log of one job. A restarted driver opens it, which fences the driver before it, and
//!   asks [`journal::resume`] which statements to run again, which to skip, and which write to look up.
//! - [`commit`]: the parallel sink. Many tasks write parts that nobody can see; the driver decides, by one conditional
//!   create at the destination, that they are the result.
//!
//! The journal says what the driver knows; the destination says what is true. Where they differ (the driver died
//! between a commit and its journal record) the destination wins, because a write is found there by its [`WriteId`].
//!
//! Decisions are pure functions ([`journal::resume`], [`commit::decide`], [`commit::visible`]); files and object stores
//! are touched at the edge only. This crate knows nothing of SQL, plans, tasks or Arrow: a part is bytes, a statement a
//! fingerprint. It reads no clock and draws no randomness.

pub mod commit;
pub mod journal;

mod ids;
mod objects;

pub use ids::{Fingerprint, Generation, InvalidFingerprint, InvalidWriteId, WriteId};
