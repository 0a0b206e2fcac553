//! The driver's half of the control stream.
//!
//! Each stream has one task that reads it and one bounded queue that is written to it; they share a [`Fate`], and whoever
//! sees the end first decides it. A worker that does not read fills its own queue and loses its own stream: sending
//! never waits, so no worker can slow down another one or the driver.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use axum::Router;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use trireme_core::tls::{Identity, Role};
use uuid::Uuid;

use super::{SendError, check_size, cut};
use crate::limits::ControlLimits;
use crate::serve::Peer;
use crate::wire::control_server as generated;
use crate::wire::driver_message::Body as FromDriver;
use crate::wire::worker_message::Body as FromWorker;
use crate::wire::{DriverMessage, Hello, Refused, WIRE_VERSION, WorkerMessage};

/// A Kubernetes object name has at most 253 bytes, a host name as many, and a port adds six.
const NAME_BYTES_MAX: usize = 260;

/// One attached stream; never used twice within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What happens to control streams. Of each stream: `Attached` first, then its messages in order, then `Closed` once.
#[derive(Debug)]
pub enum ControlEvent {
    /// A worker said Hello, in our wire version. It waits for Welcome or Refused.
    Attached {
        /// Names the stream from now on.
        connection: ConnectionId,
        /// What it said of itself: a claim, unlike `peer`. Its incarnation is a UUID.
        hello: Hello,
        /// What its certificate says.
        peer: Arc<Identity>,
        /// The way to answer. Dropping every copy ends the stream, after what was sent.
        link: WorkerLink,
    },
    /// It said something else.
    Message {
        /// Which stream.
        connection: ConnectionId,
        /// Anything but Hello.
        message: FromWorker,
    },
    /// The stream has ended; nothing more comes from it or reaches it.
    Closed {
        /// Which stream.
        connection: ConnectionId,
        /// Why.
        cause: CloseCause,
    },
}

/// Why a stream ended, as far as can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The worker ended it in order.
    Finished,
    /// The connection broke, or the worker's process did.
    Lost {
        /// What the transport says.
        detail: String,
    },
    /// The worker did not read what was sent to it.
    Overflow,
    /// The worker broke the protocol.
    Protocol {
        /// How.
        detail: String,
    },
    /// We ended it: by [`WorkerLink::close`], or by dropping every link.
    ByDriver {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for CloseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseCause::Finished => f.write_str("the worker ended the stream"),
            CloseCause::Lost { detail } => write!(f, "the connection was lost: {detail}"),
            CloseCause::Overflow => f.write_str("the worker does not read what is sent to it"),
            CloseCause::Protocol { detail } => write!(f, "the worker broke the protocol: {detail}"),
            CloseCause::ByDriver { reason } => write!(f, "the driver ended the stream: {reason}"),
        }
    }
}

/// Accepts control streams and reports them.
#[derive(Debug)]
pub struct ControlServer {
    limits: ControlLimits,
    events: mpsc::Sender<ControlEvent>,
    connections: AtomicU64,
}

impl ControlServer {
    /// The server, and the queue of everything that happens to its streams. When the queue is dropped, streams end.
    pub fn new(limits: ControlLimits) -> (Self, mpsc::Receiver<ControlEvent>) {
        let (events, queue) = mpsc::channel(limits.events_max);
        (
            Self {
                limits,
                events,
                connections: AtomicU64::new(0),
            },
            queue,
        )
    }

    /// What to serve, behind mutual TLS, on the control port.
    pub fn into_router(self) -> Router {
        let bytes_max = self.limits.message_bytes_max;
        let service = generated::ControlServer::new(self)
            .max_decoding_message_size(bytes_max)
            .max_encoding_message_size(bytes_max);
        Routes::new(service).prepare().into_axum_router()
    }

    async fn hello(&self, inbound: &mut Streaming<WorkerMessage>) -> Result<Hello, Status> {
        let first = timeout(self.limits.hello_timeout, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello in time"))??;
        match first.and_then(|message| message.body) {
            Some(FromWorker::Hello(hello)) => Ok(hello),
            _ => Err(Status::invalid_argument("the first message must be a hello")),
        }
    }

    fn open(&self) -> (ConnectionId, WorkerLink, Outgoing) {
        let connection = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed));
        let (queue, outgoing) = mpsc::channel(self.limits.outgoing_messages_max);
        let fate = Arc::new(Fate::default());
        let outgoing = Outgoing {
            queue: outgoing,
            killed: Box::pin(fate.killed.clone().cancelled_owned()),
            fate: Arc::clone(&fate),
        };
        let limits = self.limits.clone();
        (
            connection,
            WorkerLink {
                connection,
                queue,
                fate,
                limits,
            },
            outgoing,
        )
    }
}

#[tonic::async_trait]
impl generated::Control for ControlServer {
    type AttachStream = Outgoing;

    async fn attach(&self, request: Request<Streaming<WorkerMessage>>) -> Result<Response<Outgoing>, Status> {
        let peer = worker(&request)?;
        let mut inbound = request.into_inner();
        let hello = self.hello(&mut inbound).await?;
        let (connection, link, outgoing) = self.open();
        if let Err(reason) = check(&hello) {
            tracing::warn!(worker = %peer, reason, "refused a worker");
            // The answer is in the queue and this was the only link: the stream ends once it is sent.
            let _ = link.send(FromDriver::Refused(Refused { reason, fatal: true }));
            return Ok(Response::new(outgoing));
        }
        let fate = Arc::clone(&link.fate);
        let attached = ControlEvent::Attached {
            connection,
            hello,
            peer,
            link,
        };
        if self.events.send(attached).await.is_err() {
            return Err(Status::unavailable("the driver is ending"));
        }
        // Ends with its stream: `Outgoing`, which the connection owns, decides the fate when it is dropped.
        tokio::spawn(read(inbound, connection, self.events.clone(), fate));
        Ok(Response::new(outgoing))
    }
}

/// The listener's wall lets in whoever has a certificate of the job; this stream is for workers.
fn worker(request: &Request<Streaming<WorkerMessage>>) -> Result<Arc<Identity>, Status> {
    let identity = request
        .extensions()
        .get::<Peer>()
        .and_then(|peer| peer.identity.clone());
    match identity {
        Some(identity) if identity.role() == Role::Worker => Ok(identity),
        Some(identity) => Err(Status::permission_denied(format!(
            "a {} cannot attach as a worker",
            identity.role()
        ))),
        None => Err(Status::unauthenticated("a certificate of the job is required")),
    }
}

/// What must hold before anybody looks at a worker.
fn check(hello: &Hello) -> Result<(), String> {
    if hello.wire_version != WIRE_VERSION {
        return Err(format!(
            "the worker (engine {}) speaks wire version {}, the driver {WIRE_VERSION}",
            cut(hello.engine_version.clone()),
            hello.wire_version
        ));
    }
    for (field, text) in [
        ("worker_name", &hello.worker_name),
        ("data_address", &hello.data_address),
    ] {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(format!(
                "{field} must have 1 to {NAME_BYTES_MAX} bytes, has {}",
                text.len()
            ));
        }
    }
    if Uuid::parse_str(&hello.incarnation).is_err() {
        return Err("incarnation must be a UUID".to_owned());
    }
    if hello.slots == 0 {
        return Err("slots must be at least 1".to_owned());
    }
    Ok(())
}

/// Reports what a stream says until its fate is decided, then reports that.
async fn read(
    mut inbound: Streaming<WorkerMessage>,
    connection: ConnectionId,
    events: mpsc::Sender<ControlEvent>,
    fate: Arc<Fate>,
) {
    let cause = tokio::select! {
        biased;
        cause = fate.decided() => cause,
        cause = forward(&mut inbound, connection, &events) => fate.decide(cause),
    };
    // Gives the stream up before the owner hears of it: what it does next meets a closed door.
    drop(inbound);
    tracing::debug!(%connection, %cause, "control stream closed");
    // Without an owner there is nobody to tell.
    let _ = events.send(ControlEvent::Closed { connection, cause }).await;
}

async fn forward(
    inbound: &mut Streaming<WorkerMessage>,
    connection: ConnectionId,
    events: &mpsc::Sender<ControlEvent>,
) -> CloseCause {
    loop {
        let message = match inbound.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return CloseCause::Finished,
            Err(status) => {
                return CloseCause::Lost {
                    detail: cut(status.message().to_owned()),
                };
            }
        };
        let message = match message.body {
            Some(FromWorker::Hello(_)) => {
                return CloseCause::Protocol {
                    detail: "a second hello".to_owned(),
                };
            }
            Some(body) => body,
            None => {
                return CloseCause::Protocol {
                    detail: "an unknown message".to_owned(),
                };
            }
        };
        if events
            .send(ControlEvent::Message { connection, message })
            .await
            .is_err()
        {
            return CloseCause::ByDriver {
                reason: "the driver is ending".to_owned(),
            };
        }
    }
}

/// What the two halves of a stream share: how much waits to be sent, and how it ends. The first cause stays.
#[derive(Debug, Default)]
struct Fate {
    queued_bytes: AtomicUsize,
    cause: OnceLock<CloseCause>,
    killed: CancellationToken,
}

impl Fate {
    fn decide(&self, cause: CloseCause) -> CloseCause {
        let decided = self.cause.get_or_init(|| cause).clone();
        self.killed.cancel();
        decided
    }

    async fn decided(&self) -> CloseCause {
        self.killed.cancelled().await;
        self.cause
            .get()
            .cloned()
            .expect("a cause is set before the token is cancelled")
    }
}

/// The way to one worker. Cheap to clone; sending never waits.
#[derive(Clone)]
pub struct WorkerLink {
    connection: ConnectionId,
    queue: mpsc::Sender<DriverMessage>,
    fate: Arc<Fate>,
    limits: ControlLimits,
}

impl WorkerLink {
    /// The stream it leads to.
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// Queues a message. A queue that is full, in messages or in bytes, ends the stream ([`CloseCause::Overflow`]).
    pub fn send(&self, body: FromDriver) -> Result<(), SendError> {
        let message = DriverMessage::from(body);
        let bytes = check_size(&message, self.limits.message_bytes_max)?;
        if self.fate.killed.is_cancelled() {
            return Err(SendError::Closed);
        }
        let queued = self.fate.queued_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let outcome = if queued > self.limits.outgoing_bytes_max {
            Err(SendError::Overflow)
        } else {
            self.queue.try_send(message).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => SendError::Overflow,
                mpsc::error::TrySendError::Closed(_) => SendError::Closed,
            })
        };
        if outcome.is_err() {
            self.fate.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        }
        if outcome == Err(SendError::Overflow) {
            self.fate.decide(CloseCause::Overflow);
        }
        outcome
    }

    /// Ends the stream now; what is still queued is dropped. To let it out first, drop the link instead.
    pub fn close(&self, reason: impl Into<String>) {
        self.fate.decide(CloseCause::ByDriver {
            reason: cut(reason.into()),
        });
    }
}

impl fmt::Debug for WorkerLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerLink")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

/// What goes to the worker: owned by its connection, so its being dropped is how we learn that the connection is gone.
#[derive(Debug)]
pub struct Outgoing {
    queue: mpsc::Receiver<DriverMessage>,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    fate: Arc<Fate>,
}

impl Stream for Outgoing {
    type Item = Result<DriverMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.killed.as_mut().poll(cx).is_ready() {
            // An error and not an end: the worker must not take this for a goodbye. Polled no more after it.
            let cause = self.fate.cause.get().map(ToString::to_string).unwrap_or_default();
            return Poll::Ready(Some(Err(Status::aborted(cause))));
        }
        match ready!(self.queue.poll_recv(cx)) {
            Some(message) => {
                self.fate
                    .queued_bytes
                    .fetch_sub(message.encoded_len(), Ordering::AcqRel);
                Poll::Ready(Some(Ok(message)))
            }
            None => {
                self.fate.decide(CloseCause::ByDriver {
                    reason: "nothing more to say".to_owned(),
                });
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.fate.decide(CloseCause::Lost {
            detail: "the connection ended".to_owned(),
        });
    }
}
