//! The text that comments are cut from: 300 MiB of sentences as the specification has them (4.2.2.10), made once in a process
//! and kept. A scan without comments does without.

use std::sync::{Arc, OnceLock};

use datafusion::arrow::datatypes::Schema;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use tpchgen::distribution::Distributions;
use tpchgen::text::TextPool;

/// Of the pool, at most, in eighths: operators need some too, even if the limit is too low for the text.
const EIGHTHS_MAX: usize = 7;

/// The text for a scan that yields the columns of `schema`. Where they tell one text from another, it is the specification's,
/// and counts in `memory` from then on.
pub fn text_for(schema: &Schema, memory: &Arc<dyn MemoryPool>) -> &'static TextPool {
    /// For comments that nobody sees. Longer than the longest of them.
    static SHORT: OnceLock<TextPool> = OnceLock::new();
    const SHORT_BYTES: i32 = 64 << 10;
    if schema.fields().iter().any(|field| field.name().ends_with("_comment")) {
        let text = TextPool::get_or_init_default();
        count(text, memory);
        return text;
    }
    SHORT.get_or_init(|| TextPool::new(SHORT_BYTES, Distributions::static_default()))
}

/// Counts the text, once in a process, as there is one.
fn count(text: &TextPool, memory: &Arc<dyn MemoryPool>) {
    static COUNTED: OnceLock<MemoryReservation> = OnceLock::new();
    let bytes = usize::try_from(text.size()).unwrap_or(0);
    COUNTED.get_or_init(|| {
        let reservation = MemoryConsumer::new("text of tpch's comments").register(memory);
        reservation.grow(match memory.memory_limit() {
            MemoryLimit::Finite(limit) => bytes.min(limit / 8 * EIGHTHS_MAX),
            MemoryLimit::Infinite | MemoryLimit::Unknown => bytes,
        });
        reservation
    });
}
