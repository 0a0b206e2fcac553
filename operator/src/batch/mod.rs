//! BatchJob: from the object to its pods, and from its pods to its status.

pub mod build;
pub mod decide;
pub mod reconcile;
pub mod seen;
pub mod spec_hash;
pub mod validate;
