//! The wire messages, generated from `proto/control.proto`, where each field is explained.

/// The version of the protocol. It is raised by any change that an older peer would misread; both sides must agree.
pub const WIRE_VERSION: u32 = 1;

pub use generated::*;

mod generated {
    #![expect(clippy::allow_attributes, reason = "generated code")]
    tonic::include_proto!("trireme.control.v1");
}

impl From<worker_message::Body> for WorkerMessage {
    fn from(body: worker_message::Body) -> Self {
        Self { body: Some(body) }
    }
}

impl From<driver_message::Body> for DriverMessage {
    fn from(body: driver_message::Body) -> Self {
        Self { body: Some(body) }
    }
}
