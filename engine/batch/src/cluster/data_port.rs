//! A worker's data port: shuffle output of this worker, for the driver and the other workers.
//!
//! The Flight service is Ballista's. In front of it stands a check of what a request may name, because the service builds
//! paths from it, and a refusal of every method that is not a read.

use std::pin::Pin;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use ballista_core::serde::decode_protobuf;
use ballista_core::serde::scheduler::Action as Fetch;
use ballista_executor::flight_service::BallistaFlightService;
use futures::Stream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// Serves the shuffle files below one folder.
#[derive(Clone)]
pub struct DataPort {
    files: BallistaFlightService,
}

impl DataPort {
    /// What to serve on the data port: the shuffle files below `work_dir`.
    pub fn router(work_dir: &str, message_bytes_max: usize) -> axum::Router {
        let service = FlightServiceServer::new(Self {
            files: BallistaFlightService::new(work_dir.to_owned()),
        })
        .max_decoding_message_size(message_bytes_max)
        .max_encoding_message_size(message_bytes_max);
        Routes::new(service).prepare().into_axum_router()
    }
}

/// The run's name becomes a folder's: whatever could leave the work folder is refused.
fn check(body: &[u8]) -> Result<(), Status> {
    let Fetch::FetchPartition { job_id, .. } =
        decode_protobuf(body).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let name = job_id.as_str();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 253 || !name.chars().all(plain) {
        return Err(Status::invalid_argument("not the name of a run"));
    }
    Ok(())
}

fn refused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the data port serves shuffle reads only"))
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

#[tonic::async_trait]
impl FlightService for DataPort {
    type HandshakeStream = Boxed<HandshakeResponse>;
    type ListFlightsStream = Boxed<FlightInfo>;
    type DoGetStream = Boxed<FlightData>;
    type DoPutStream = Boxed<PutResult>;
    type DoExchangeStream = Boxed<FlightData>;
    type DoActionStream = Boxed<arrow_flight::Result>;
    type ListActionsStream = Boxed<ActionType>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        check(&request.get_ref().ticket)?;
        self.files.do_get(request).await
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        check(&request.get_ref().body)?;
        self.files.do_action(request).await
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        refused()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        refused()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        refused()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        refused()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        refused()
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        refused()
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        refused()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ballista_core::JobId;
    use ballista_core::serde::protobuf;
    use ballista_core::serde::scheduler::{ShuffleFileKind, ShuffleLayout};
    use prost::Message;

    fn fetch(run: &str) -> Vec<u8> {
        let action = Fetch::FetchPartition {
            job_id: JobId::new(run),
            stage_id: 1,
            partition_id: 0,
            host: String::new(),
            port: 0,
            file_id: Some(1),
            layout: ShuffleLayout::Passthrough,
            file_kind: ShuffleFileKind::Data,
            byte_ranges: Vec::new(),
        };
        TryInto::<protobuf::Action>::try_into(action).unwrap().encode_to_vec()
    }

    #[test]
    fn a_run_names_a_folder_of_ours_or_nothing() {
        assert!(check(&fetch("revenue-1-2")).is_ok());
        for name in ["", "..", "../../etc", "/etc", "a/b", "A", "a\0b", &"a".repeat(300)] {
            assert!(check(&fetch(name)).is_err(), "{name:?}");
        }
        assert!(check(b"\xff\xff").is_err());
    }
}
