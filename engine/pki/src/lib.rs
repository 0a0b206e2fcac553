//! Who is who in a job: the names that stand in certificates, and the authority that makes them.
//!
//! Shared by whoever starts a job's processes (`trireme run --workers` on one machine, the operator on a cluster) and by
//! the processes, which read each other's names; so the names have one spelling. It opens no file and no socket.

mod authority;
mod identity;

pub use authority::{AuthorityError, JobAuthority, LEAF_VALIDITY, Leaf};
pub use identity::{Identity, IdentityError, PART_BYTES_MAX, Role, peer_identity};
