//! The worker's half of the control stream.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::{SendError, check_size};
use crate::limits::ControlLimits;
use crate::wire::control_client::ControlClient;
use crate::wire::driver_message::Body as FromDriver;
use crate::wire::worker_message::Body as FromWorker;
use crate::wire::{DriverMessage, Hello, Welcome, WorkerMessage};

/// A worker that is in.
#[derive(Debug)]
pub struct Attachment {
    /// What the driver said.
    pub welcome: Welcome,
    /// The way to the driver. Dropping every copy ends the stream in order.
    pub link: DriverLink,
    /// What comes from the driver. Dropping it ends the stream too: a worker that does not listen must not seem alive.
    pub inbox: DriverInbox,
}

/// Why a worker is not in.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The driver does not want this worker.
    #[error("the driver refused this worker: {reason}")]
    Refused {
        /// Why.
        reason: String,
        /// Coming back as the same process is pointless.
        fatal: bool,
    },
    /// The driver let the stream open and then said nothing.
    #[error("the driver did not answer within {} s", waited.as_secs_f32())]
    Silent {
        /// How long it had.
        waited: Duration,
    },
    /// The stream could not be opened, or broke at once. Worth another try, unless the driver does not know us at all.
    #[error("cannot open the control stream")]
    Stream(#[source] Box<Status>),
    /// The driver answered with something else than Welcome or Refused.
    #[error("the driver's first message is neither a welcome nor a refusal")]
    Protocol,
}

impl AttachError {
    /// Whether coming back as the same process may help.
    pub fn is_retryable(&self) -> bool {
        match self {
            AttachError::Refused { fatal, .. } => !fatal,
            AttachError::Silent { .. } => true,
            AttachError::Stream(status) => !matches!(
                status.code(),
                Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument
            ),
            AttachError::Protocol => false,
        }
    }
}

/// Opens the control stream over a channel to the driver, and waits to be let in.
pub async fn attach(channel: Channel, hello: Hello, limits: &ControlLimits) -> Result<Attachment, AttachError> {
    let waited = limits.welcome_timeout;
    match timeout(waited, open(channel, hello, limits)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(AttachError::Silent { waited }),
    }
}

async fn open(channel: Channel, hello: Hello, limits: &ControlLimits) -> Result<Attachment, AttachError> {
    let lost = |status| AttachError::Stream(Box::new(status));
    let (queue, waiting) = mpsc::channel(limits.reports_max);
    let deaf = CancellationToken::new();
    let reports = Reports {
        queue: waiting,
        deaf: Box::pin(deaf.clone().cancelled_owned()),
    };
    let listening = deaf.drop_guard();
    queue
        .try_send(FromWorker::Hello(hello).into())
        .expect("a queue of at least one message is empty at first");
    let mut client = ControlClient::new(channel)
        .max_decoding_message_size(limits.message_bytes_max)
        .max_encoding_message_size(limits.message_bytes_max);
    let mut stream = client.attach(reports).await.map_err(lost)?.into_inner();
    let first = stream.message().await.map_err(lost)?;
    match first.and_then(|message| message.body) {
        Some(FromDriver::Welcome(welcome)) => Ok(Attachment {
            welcome,
            link: DriverLink {
                queue,
                bytes_max: limits.message_bytes_max,
            },
            inbox: DriverInbox {
                stream,
                _listening: listening,
            },
        }),
        Some(FromDriver::Refused(refused)) => Err(AttachError::Refused {
            reason: refused.reason,
            fatal: refused.fatal,
        }),
        _ => Err(AttachError::Protocol),
    }
}

/// The way to the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DriverLink {
    queue: mpsc::Sender<WorkerMessage>,
    bytes_max: usize,
}

impl DriverLink {
    /// Sends a message, waiting for room: a driver that is behind slows its workers down and loses nothing.
    pub async fn send(&self, body: FromWorker) -> Result<(), SendError> {
        let message = WorkerMessage::from(body);
        check_size(&message, self.bytes_max)?;
        self.queue.send(message).await.map_err(|_| SendError::Closed)
    }

    /// Sends what is worth nothing later, such as a heartbeat: [`SendError::Overflow`] when there is no room, and the
    /// stream goes on.
    pub fn send_now(&self, body: FromWorker) -> Result<(), SendError> {
        let message = WorkerMessage::from(body);
        check_size(&message, self.bytes_max)?;
        self.queue.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Overflow,
            mpsc::error::TrySendError::Closed(_) => SendError::Closed,
        })
    }
}

/// The stream from the driver broke.
#[derive(Debug, thiserror::Error)]
#[error("the control stream was lost")]
pub struct StreamLost(#[source] pub Box<Status>);

/// What comes from the driver.
#[derive(Debug)]
pub struct DriverInbox {
    stream: Streaming<DriverMessage>,
    _listening: DropGuard,
}

impl DriverInbox {
    /// The next message; none when the driver has ended the stream in order.
    pub async fn next(&mut self) -> Result<Option<FromDriver>, StreamLost> {
        let lost = |status| StreamLost(Box::new(status));
        match self.stream.message().await.map_err(lost)? {
            None => Ok(None),
            Some(DriverMessage { body: Some(body) }) => Ok(Some(body)),
            // Of a later protocol, which the handshake has excluded.
            Some(DriverMessage { body: None }) => Err(lost(Status::internal("an unknown message"))),
        }
    }
}

/// What goes to the driver, until nobody on our side listens to its answers.
#[derive(Debug)]
struct Reports {
    queue: mpsc::Receiver<WorkerMessage>,
    deaf: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream for Reports {
    type Item = WorkerMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WorkerMessage>> {
        if self.deaf.as_mut().poll(cx).is_ready() {
            self.queue.close();
            return Poll::Ready(None);
        }
        self.queue.poll_recv(cx)
    }
}
