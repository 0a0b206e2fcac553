//! Every bound of the transport, in one place, with its reason.

use std::time::Duration;

use trireme_spec::limits::Limits;

/// The bounds of one listener, and of the connections dialled to such listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportLimits {
    /// From accepting a connection to the end of its TLS handshake. A handshake is two round trips and one signature.
    pub handshake_timeout: Duration,
    /// Handshakes under way at once; what comes on top waits in the kernel's backlog. Keeps strangers, who get no
    /// further than this, from holding memory.
    pub handshakes_max: usize,
    /// Connections open at once, handshakes included; what comes on top waits in the kernel's backlog.
    pub connections_max: usize,
    /// Requests open at once on one connection.
    pub streams_max: u32,
    /// The largest set of headers of one request, bytes.
    pub header_bytes_max: u32,
    /// What one stream may have in flight, bytes. One gigabyte a second at 4 ms of round trip needs 4 MiB.
    pub stream_window_bytes: u32,
    /// What all streams of one connection together may have in flight, bytes: four that are stuck do not stop a fifth
    /// until they have filled it.
    pub connection_window_bytes: u32,
    /// The largest HTTP/2 frame, bytes. Larger than the default of 16 KiB, because shuffles are bulk.
    pub frame_bytes: u32,
    /// A connection that has been quiet for so long is asked whether it is there.
    pub keepalive_interval: Duration,
    /// A connection that does not answer that in so long is closed.
    pub keepalive_timeout: Duration,
    /// From dialling to a usable connection, name resolution and TLS included.
    pub connect_timeout: Duration,
    /// How long a listener that was told to end waits for its open requests.
    pub drain_timeout: Duration,
}

impl TransportLimits {
    /// For the http port: small answers to few callers.
    pub fn http() -> Self {
        Self {
            handshakes_max: 16,
            connections_max: 256,
            streams_max: 16,
            stream_window_bytes: 1 << 16,
            connection_window_bytes: 1 << 18,
            frame_bytes: 1 << 14,
            drain_timeout: Duration::from_secs(1),
            ..Self::default()
        }
    }
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            handshakes_max: 64,
            connections_max: 4096,
            streams_max: 1024,
            header_bytes_max: 16 << 10,
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
            frame_bytes: 256 << 10,
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// The bounds of the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlLimits {
    /// The largest message, either way, bytes.
    pub message_bytes_max: usize,
    /// From the opening of a stream to the worker's Hello.
    pub hello_timeout: Duration,
    /// From the worker's Hello to the driver's answer. A driver that replays its journal answers late.
    pub welcome_timeout: Duration,
    /// Messages waiting for the driver, from all its workers. A full queue slows the workers down.
    pub events_max: usize,
    /// Messages waiting for one worker. A worker that lets more pile up does not read: it is cut off.
    pub outgoing_messages_max: usize,
    /// The same in bytes: room for a few plans of the largest size.
    pub outgoing_bytes_max: usize,
    /// Messages of a worker waiting for the network; more make its tasks wait.
    pub reports_max: usize,
}

impl Default for ControlLimits {
    fn default() -> Self {
        Self {
            message_bytes_max: usize::try_from(Limits::DEFAULT.message_bytes_max.get()).unwrap_or(usize::MAX),
            hello_timeout: Duration::from_secs(5),
            welcome_timeout: Duration::from_secs(30),
            events_max: 1024,
            outgoing_messages_max: 4096,
            outgoing_bytes_max: 256 << 20,
            reports_max: 64,
        }
    }
}
