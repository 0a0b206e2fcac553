use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Code;
use trireme_spec::limits::Limits;

use super::*;
use crate::control::{
    AttachError, Attachment, CloseCause, ConnectionId, ControlEvent, ControlServer, SendError, WorkerLink, attach,
};
use crate::limits::ControlLimits;
use crate::wire::driver_message::Body as FromDriver;
use crate::wire::worker_message::Body as FromWorker;
use crate::wire::{CancelTask, Heartbeat, Hello, Launch, TaskFinished, WIRE_VERSION, Welcome, WorkerMessage};

/// A driver that accepts control streams, and whatever they report.
struct Driver {
    job: Job,
    listening: Listening,
    events: mpsc::Receiver<ControlEvent>,
}

impl Driver {
    async fn start(limits: ControlLimits) -> Self {
        let job = Job::new();
        let (server, events) = ControlServer::new(limits);
        let listening = Listening::start(job.driver_wall(), TransportLimits::default(), server.into_router()).await;
        Self { job, listening, events }
    }

    async fn event(&mut self) -> ControlEvent {
        within(self.events.recv())
            .await
            .expect("the server holds the queue open")
    }

    /// Opens a stream as `role` and waits for what comes of it; the driver has yet to answer.
    fn dial(&self, role: Role, hello: Hello) -> JoinHandle<Result<Attachment, AttachError>> {
        let (dialer, address) = (self.job.dialer(role, &hello.worker_name), self.listening.at());
        tokio::spawn(async move {
            let channel = dialer.connect(&address, Role::Driver).await.unwrap();
            attach(channel, hello, &ControlLimits::default()).await
        })
    }

    async fn welcome(&mut self, name: &str) -> (ConnectionId, WorkerLink, Attachment) {
        let attaching = self.dial(Role::Worker, hello(name));
        let ControlEvent::Attached {
            connection,
            hello,
            peer,
            link,
        } = self.event().await
        else {
            panic!("attached comes first")
        };
        assert_eq!((hello.worker_name.as_str(), peer.instance()), (name, name));
        link.send(FromDriver::Welcome(Welcome {
            worker_id: 7,
            generation: 3,
            ..Welcome::default()
        }))
        .unwrap();
        let attachment = within(attaching).await.unwrap().unwrap();
        assert_eq!((attachment.welcome.worker_id, attachment.welcome.generation), (7, 3));
        (connection, link, attachment)
    }

    async fn closed(&mut self, expected: ConnectionId) -> CloseCause {
        loop {
            if let ControlEvent::Closed { connection, cause } = self.event().await {
                assert_eq!(connection, expected);
                return cause;
            }
        }
    }
}

fn hello(name: &str) -> Hello {
    Hello {
        worker_name: name.to_owned(),
        incarnation: "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned(),
        wire_version: WIRE_VERSION,
        engine_version: "0.1.0".to_owned(),
        data_address: "127.0.0.1:1".to_owned(),
        slots: 2,
        memory_bytes: 1 << 30,
        pid: 42,
    }
}

fn finished(task: u64) -> FromWorker {
    FromWorker::TaskFinished(TaskFinished {
        task,
        output: Bytes::from_static(b"output"),
    })
}

fn launch(task: u64, payload_bytes: usize) -> FromDriver {
    FromDriver::Launch(Launch {
        task,
        payload: Bytes::from(vec![7; payload_bytes]),
        ..Launch::default()
    })
}

#[tokio::test]
async fn messages_pass_in_order_both_ways() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let (connection, link, mut worker) = driver.welcome("w1").await;

    for task in 0..100 {
        link.send(launch(task, 10)).unwrap();
        worker.link.send(finished(task)).await.unwrap();
    }

    for task in 0..100 {
        assert_eq!(within(worker.inbox.next()).await.unwrap(), Some(launch(task, 10)));
        match driver.event().await {
            ControlEvent::Message {
                connection: from,
                message,
            } => assert_eq!((from, message), (connection, finished(task))),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_worker_that_ends_its_stream_has_finished() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let (connection, link, worker) = driver.welcome("w1").await;

    worker.link.send(finished(1)).await.unwrap();
    let Attachment {
        link: to_driver, inbox, ..
    } = worker;
    drop(to_driver);

    assert!(
        matches!(driver.event().await, ControlEvent::Message { .. }),
        "the last word arrives"
    );
    assert_eq!(driver.closed(connection).await, CloseCause::Finished);
    assert_eq!(link.send(launch(1, 1)), Err(SendError::Closed));
    drop(inbox);
}

#[tokio::test]
async fn a_worker_that_no_longer_listens_is_closed() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let (connection, _link, worker) = driver.welcome("w1").await;
    let Attachment {
        link: to_driver, inbox, ..
    } = worker;

    drop(inbox);

    // The end of its words and the reset of ours race; either is the end.
    let cause = driver.closed(connection).await;
    assert!(
        matches!(cause, CloseCause::Finished | CloseCause::Lost { .. }),
        "{cause}"
    );
    within(async { while to_driver.send(finished(1)).await.is_ok() {} }).await;
}

#[tokio::test]
async fn a_worker_that_vanishes_is_lost() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let (dialer, address) = (driver.job.dialer(Role::Worker, "w1"), driver.listening.at());
    // A runtime of its own, to be taken away with all that runs on it, as a killed process is.
    let process = tokio::runtime::Runtime::new().unwrap();
    process.spawn(async move {
        let channel = dialer.connect(&address, Role::Driver).await.unwrap();
        let _attachment = attach(channel, hello("w1"), &ControlLimits::default()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let ControlEvent::Attached { connection, link, .. } = driver.event().await else {
        panic!("attached comes first")
    };
    link.send(FromDriver::Welcome(Welcome::default())).unwrap();

    process.shutdown_background();

    assert!(matches!(driver.closed(connection).await, CloseCause::Lost { .. }));
    assert_eq!(link.send(launch(1, 1)), Err(SendError::Closed));
}

#[tokio::test]
async fn a_listener_that_ends_closes_its_streams() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let (connection, _link, mut worker) = driver.welcome("w1").await;

    driver.listening.served.abort();

    within(worker.inbox.next()).await.unwrap_err();
    assert!(matches!(driver.closed(connection).await, CloseCause::Lost { .. }));
}

#[tokio::test]
async fn dropping_the_link_lets_out_what_was_sent() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let (connection, link, mut worker) = driver.welcome("w1").await;

    link.send(launch(1, 10)).unwrap();
    drop(link);

    assert_eq!(within(worker.inbox.next()).await.unwrap(), Some(launch(1, 10)));
    assert_eq!(within(worker.inbox.next()).await.unwrap(), None);
    assert!(matches!(driver.closed(connection).await, CloseCause::ByDriver { .. }));
}

#[tokio::test]
async fn closing_the_link_is_no_goodbye() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let (connection, link, mut worker) = driver.welcome("w1").await;

    link.close("declared lost");

    let lost = within(worker.inbox.next()).await.unwrap_err();
    assert!(lost.0.message().contains("declared lost"), "{lost:?}");
    assert_eq!(
        driver.closed(connection).await,
        CloseCause::ByDriver {
            reason: "declared lost".to_owned()
        }
    );
    assert_eq!(link.send(launch(1, 1)), Err(SendError::Closed));
}

#[tokio::test]
async fn a_worker_that_does_not_read_loses_its_own_stream_only() {
    for (messages_max, bytes_max) in [(16, usize::MAX), (usize::MAX >> 4, 1 << 20)] {
        let limits = ControlLimits {
            outgoing_messages_max: messages_max,
            outgoing_bytes_max: bytes_max,
            ..ControlLimits::default()
        };
        let mut driver = Driver::start(limits).await;
        let (_, brisk_link, mut brisk) = driver.welcome("brisk").await;
        let (slow, slow_link, _slow_worker) = driver.welcome("slow").await;

        // The windows of HTTP/2 and the socket's buffers swallow some; then the queue fills. Yielding lets the
        // connection take what it can, so that the bound that is hit is the queue's.
        let mut sent = 0;
        let error = loop {
            match slow_link.send(launch(sent, 64 << 10)) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 10_000, "nothing bounds the queue");
            tokio::task::yield_now().await;
        };
        assert_eq!(error, SendError::Overflow);
        assert_eq!(driver.closed(slow).await, CloseCause::Overflow);

        brisk_link.send(FromDriver::CancelTask(CancelTask { task: 1 })).unwrap();
        let received = within(brisk.inbox.next()).await.unwrap();
        assert_eq!(received, Some(FromDriver::CancelTask(CancelTask { task: 1 })));
        brisk
            .link
            .send_now(FromWorker::Heartbeat(Heartbeat::default()))
            .unwrap();
        assert!(matches!(driver.event().await, ControlEvent::Message { .. }));
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_before_it_is_sent() {
    let limits = ControlLimits {
        message_bytes_max: 1 << 16,
        ..ControlLimits::default()
    };
    let mut driver = Driver::start(limits).await;
    let (_, link, mut worker) = driver.welcome("w1").await;

    assert!(matches!(link.send(launch(1, 1 << 16)), Err(SendError::TooLarge { .. })));

    link.send(launch(2, 10)).unwrap();
    assert_eq!(within(worker.inbox.next()).await.unwrap(), Some(launch(2, 10)));
}

#[tokio::test]
async fn a_message_over_the_drivers_limit_ends_the_stream_of_its_sender() {
    let limits = ControlLimits {
        message_bytes_max: 1 << 16,
        ..ControlLimits::default()
    };
    let mut driver = Driver::start(limits).await;
    let (connection, _link, worker) = driver.welcome("w1").await;

    // The worker's own limit is larger.
    let output = Bytes::from(vec![7; 1 << 17]);
    worker
        .link
        .send(FromWorker::TaskFinished(TaskFinished { task: 1, output }))
        .await
        .unwrap();

    assert!(matches!(driver.closed(connection).await, CloseCause::Lost { .. }));
}

/// What `trireme explain --limits` prints is what the port does.
#[tokio::test]
async fn the_published_limit_of_a_message_holds_both_ways() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let published = usize::try_from(Limits::DEFAULT.message_bytes_max.get()).unwrap();
    let attaching = {
        let (dialer, address) = (driver.job.dialer(Role::Worker, "w1"), driver.listening.at());
        let lavish = ControlLimits {
            message_bytes_max: usize::MAX,
            ..ControlLimits::default()
        };
        tokio::spawn(async move {
            let channel = dialer.connect(&address, Role::Driver).await.unwrap();
            attach(channel, hello("w1"), &lavish).await
        })
    };
    let ControlEvent::Attached { connection, link, .. } = driver.event().await else {
        panic!("attached comes first")
    };
    link.send(FromDriver::Welcome(Welcome::default())).unwrap();
    let worker = within(attaching).await.unwrap().unwrap();

    let sent = link.send(launch(1, published));
    assert!(matches!(sent, Err(SendError::TooLarge { .. })), "{sent:?}");
    let output = Bytes::from(vec![7; published]);
    let too_long = FromWorker::TaskFinished(TaskFinished { task: 1, output });
    worker.link.send(too_long).await.unwrap();

    assert!(matches!(driver.closed(connection).await, CloseCause::Lost { .. }));
}

/// A peer with a certificate of the job may still send anything: whatever it is, the driver lives and serves others.
#[tokio::test]
async fn bytes_that_are_no_message_end_the_stream_of_their_sender_only() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let (_, brisk_link, mut brisk) = driver.welcome("brisk").await;
    for seed in 0..64_u64 {
        let dialer = driver.job.dialer(Role::Worker, "rogue");
        let channel = dialer.connect(&driver.listening.at(), Role::Driver).await.unwrap();
        let stream = tokio_stream::iter([
            Raw(WorkerMessage::from(FromWorker::Hello(hello("rogue"))).encode_to_vec()),
            Raw(noise(seed)),
        ]);
        let mut client = tonic::client::Grpc::new(channel);
        within(client.ready()).await.unwrap();
        let path = ::http::uri::PathAndQuery::from_static("/trireme.control.v1.Control/Attach");
        // Refused at once or after the driver has said something: either way it ends.
        let rogue = tokio::spawn(async move {
            let answer = client.streaming(tonic::Request::new(stream), path, RawCodec).await;
            if let Ok(answer) = answer {
                let mut answer = answer.into_inner();
                while let Ok(Some(())) = answer.message().await {}
            }
        });
        let ControlEvent::Attached { connection, link, .. } = driver.event().await else {
            panic!("attached comes first, seed {seed}")
        };
        loop {
            match driver.event().await {
                // Bytes may happen to be a message.
                ControlEvent::Message { .. } => {}
                ControlEvent::Closed { connection: closed, .. } => {
                    assert_eq!(closed, connection, "seed {seed}");
                    break;
                }
                other @ ControlEvent::Attached { .. } => panic!("{other:?}, seed {seed}"),
            }
        }
        drop(link);
        within(rogue).await.unwrap();
    }
    brisk_link.send(launch(1, 10)).unwrap();
    assert_eq!(within(brisk.inbox.next()).await.unwrap(), Some(launch(1, 10)));
}

/// A message as bytes, whatever they are.
struct Raw(Vec<u8>);

struct RawCodec;

impl tonic::codec::Codec for RawCodec {
    type Encode = Raw;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for RawCodec {
    type Item = Raw;
    type Error = tonic::Status;

    fn encode(&mut self, Raw(bytes): Raw, buffer: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        bytes::BufMut::put_slice(buffer, &bytes);
        Ok(())
    }
}

impl tonic::codec::Decoder for RawCodec {
    type Item = ();
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
        bytes::Buf::advance(buffer, bytes::Buf::remaining(buffer));
        Ok(Some(()))
    }
}

/// A true message with some of its bytes changed, cut, or repeated; xorshift64* from the seed.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        usize::try_from(state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap()
    };
    let mut bytes = WorkerMessage::from(finished(7)).encode_to_vec();
    for _ in 0..=next() % 4 {
        let place = next() % bytes.len();
        match next() % 4 {
            0 => bytes[place] = u8::try_from(next() % 256).unwrap(),
            1 => bytes[place] ^= 0x80,
            2 => bytes.truncate(place.max(1)),
            _ => bytes.extend_from_within(place..),
        }
    }
    bytes
}

#[tokio::test]
async fn hellos_that_cannot_be_right_are_refused_for_good() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let table = [
        (
            Hello {
                wire_version: WIRE_VERSION + 1,
                ..hello("w1")
            },
            "wire version",
        ),
        (
            Hello {
                incarnation: "again".to_owned(),
                ..hello("w1")
            },
            "UUID",
        ),
        (
            Hello {
                slots: 0,
                ..hello("w1")
            },
            "slots",
        ),
        (
            Hello {
                data_address: String::new(),
                ..hello("w1")
            },
            "data_address",
        ),
        (
            Hello {
                data_address: "x".repeat(300),
                ..hello("w1")
            },
            "data_address",
        ),
    ];
    for (hello, expected) in table {
        let error = within(driver.dial(Role::Worker, hello)).await.unwrap().unwrap_err();
        assert!(!error.is_retryable());
        let AttachError::Refused { reason, fatal: true } = error else {
            panic!("{error}")
        };
        assert!(reason.contains(expected), "{reason}");
    }
    assert!(driver.events.try_recv().is_err(), "the driver hears of none of them");
}

#[tokio::test]
async fn the_drivers_own_refusal_reaches_the_worker() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let attaching = driver.dial(Role::Worker, hello("w1"));
    let ControlEvent::Attached { connection, link, .. } = driver.event().await else {
        panic!("attached comes first")
    };

    let refused = crate::wire::Refused {
        reason: "declared lost".to_owned(),
        fatal: false,
    };
    link.send(FromDriver::Refused(refused)).unwrap();
    drop(link);

    let error = within(attaching).await.unwrap().unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("declared lost"),
        "{error}"
    );
    driver.closed(connection).await;
}

#[tokio::test]
async fn only_workers_attach() {
    let driver = Driver::start(ControlLimits::default()).await;
    let error = within(driver.dial(Role::Driver, hello("w1")))
        .await
        .unwrap()
        .unwrap_err();
    let AttachError::Stream(status) = &error else {
        panic!("{error}")
    };
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_stream_without_a_hello_is_closed() {
    use crate::wire::control_client::ControlClient;

    let limits = ControlLimits {
        hello_timeout: Duration::from_millis(50),
        ..ControlLimits::default()
    };
    let mut driver = Driver::start(limits).await;
    let channel = driver
        .job
        .dialer(Role::Worker, "w1")
        .connect(&driver.listening.at(), Role::Driver)
        .await
        .unwrap();
    let mut client = ControlClient::new(channel);

    let silent = within(client.attach(tokio_stream::pending())).await.unwrap_err();
    assert_eq!(silent.code(), Code::DeadlineExceeded);
    let rude = within(client.attach(tokio_stream::once(finished(1).into())))
        .await
        .unwrap_err();
    assert_eq!(rude.code(), Code::InvalidArgument);
    assert!(driver.events.try_recv().is_err());
}

#[tokio::test]
async fn a_second_hello_breaks_the_protocol() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let (connection, _link, worker) = driver.welcome("w1").await;
    worker.link.send(FromWorker::Hello(hello("w1"))).await.unwrap();
    assert!(matches!(driver.closed(connection).await, CloseCause::Protocol { .. }));
}

#[tokio::test]
async fn a_driver_that_goes_ends_its_streams() {
    let mut driver = Driver::start(ControlLimits::default()).await;
    let (_, link, mut worker) = driver.welcome("w1").await;

    driver.events.close();
    while driver.events.try_recv().is_ok() {}
    worker.link.send(finished(1)).await.unwrap();

    within(worker.inbox.next()).await.unwrap_err();
    assert_eq!(link.send(launch(1, 1)), Err(SendError::Closed));
}
