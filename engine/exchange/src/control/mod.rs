//! The control stream: one per worker, from attaching to its end.
//!
//! The driver's half ([`ControlServer`]) turns all streams into one queue of [`ControlEvent`]s, so that its owner is a
//! loop over facts; the worker's half ([`attach`]) gives a sender and a receiver. Neither half interprets what passes:
//! placement, liveness and fencing belong to whoever owns the queue.

mod driver;
mod worker;

pub use driver::{CloseCause, ConnectionId, ControlEvent, ControlServer, WorkerLink};
pub use worker::{AttachError, Attachment, DriverInbox, DriverLink, StreamLost, attach};

/// Longer reasons and messages are cut before they are sent, bytes.
pub const TEXT_BYTES_MAX: usize = 16 << 10;

/// Why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The stream has ended; the other side will hear nothing more.
    #[error("the control stream has ended")]
    Closed,
    /// The peer does not read as fast as it is written to; its stream has been ended for it.
    #[error("the control stream's queue is full")]
    Overflow,
    /// The peer would refuse it. Nothing else is affected.
    #[error("a message of {bytes} bytes is larger than the limit of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

fn check_size(message: &impl prost::Message, bytes_max: usize) -> Result<usize, SendError> {
    let bytes = message.encoded_len();
    if bytes > bytes_max {
        return Err(SendError::TooLarge { bytes, bytes_max });
    }
    Ok(bytes)
}

/// `text`, cut to [`TEXT_BYTES_MAX`] at a character's end.
pub fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let short = "short".to_owned();
        assert_eq!(cut(short.clone()), short);
        // Two bytes each, and the limit is even: one byte in front makes the cut fall inside a character.
        let long = format!("x{}", "é".repeat(TEXT_BYTES_MAX));
        let cut = cut(long.clone());
        assert_eq!(cut.len(), TEXT_BYTES_MAX - 1);
        assert!(long.starts_with(&cut));
    }
}
