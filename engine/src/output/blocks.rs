//! Results on their way from a driver to the process that started it, which shows each once.
//!
//! A driver that is killed leaves in doubt whether the result of its last statement was seen; the next one shows it again.
//! So a driver with a parent sends each result as one block that bears its statement's number, and the parent leaves out
//! what it has shown before. A block is a line of JSON: one that a kill cut short is no JSON, and does not count.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// The result of one statement, as it is to be shown.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Block {
    statement: usize,
    text: String,
}

/// Writes the block of statement `index`.
///
/// # Errors
/// A pipe whose reader is gone.
pub fn write(out: &mut impl Write, index: usize, text: &[u8]) -> io::Result<()> {
    let block = Block {
        statement: index,
        text: String::from_utf8_lossy(text).into_owned(),
    };
    serde_json::to_writer(&mut *out, &block)?;
    out.write_all(b"\n")
}

/// What has been shown so far, of however many drivers.
#[derive(Debug, Default)]
pub struct Shown {
    /// Statements whose results have been shown: all before this one.
    next: usize,
}

impl Shown {
    /// The text of a block that is to be shown now; `None` for one that was, and for what is no whole block.
    pub fn admit(&mut self, line: &str) -> Option<String> {
        let Block { statement, text } = serde_json::from_str(line).ok()?;
        if statement < self.next {
            return None;
        }
        self.next = statement + 1;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_two_drivers_sent_is_shown_once() {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        write(&mut first, 0, "a \"1\"\n2\n".as_bytes()).unwrap();
        for (index, text) in [(0, "earlier"), (1, "b")] {
            write(&mut second, index, text.as_bytes()).unwrap();
        }
        let lines = [first, b"{\"statement\":1,\"te".to_vec(), second].map(|bytes| String::from_utf8(bytes).unwrap());
        let mut shown = Shown::default();
        let texts: Vec<_> = lines
            .iter()
            .flat_map(|text| text.lines())
            .filter_map(|line| shown.admit(line))
            .collect();
        assert_eq!(texts, ["a \"1\"\n2\n", "b"]);
    }
}
