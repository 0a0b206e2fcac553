//! Reads Arrow IPC files and believes nothing that they say of themselves.
//!
//! A compressed buffer begins with the length that it is to have when decompressed, and the decoder of `arrow-ipc` allocates
//! that before it looks any further: eight damaged bytes end the process. Here each message is looked through before it is
//! decoded. Files are read in pieces of a few megabytes, whatever their length, from any store; a file of the streaming
//! format is told by its first bytes, wherever the plan comes from.
//!
//! Formats: <https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc>.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::convert::fb_to_schema;
use datafusion::arrow::ipc::reader::{FileDecoder, StreamDecoder, read_footer_length};
use datafusion::arrow::ipc::{Block, root_as_footer, root_as_message};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::buffered::BufReader;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::io::AsyncReadExt;

/// What a file of the format with a footer begins with, and ends with.
const MAGIC: &[u8] = b"ARROW1";

/// The end of such a file: the footer's length and [`MAGIC`].
const TRAILER_BYTES: u64 = 10;

/// Blocks that lie side by side are fetched together up to so many bytes: a request costs a store tens of milliseconds.
const FETCH_BYTES: u64 = 8 << 20;

/// What the buffers of one message may add up to when decompressed. Arrow's own writers make batches of megabytes.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// The metadata of one message: a few hundred bytes for each column.
const METADATA_BYTES_MAX: u64 = 64 << 20;

/// DataFusion's scan of Arrow files, with another reader.
pub struct ArrowScan {
    inner: Arc<dyn FileSource>,
}

impl ArrowScan {
    /// Reads what `inner` describes.
    pub fn new(inner: Arc<dyn FileSource>) -> Self {
        Self { inner }
    }
}

impl FileSource for ArrowScan {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        _config: &FileScanConfig,
        _partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let columns = self.table_schema().file_schema();
        let split = match self.projection() {
            Some(projection) => SplitProjection::new(columns, projection),
            None => SplitProjection::unprojected(self.table_schema()),
        };
        let opener = Arc::new(ArrowOpener {
            store,
            columns: split.file_indices.clone(),
        });
        ProjectionOpener::try_new(split, opener, columns)
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self::new(self.inner.with_batch_size(batch_size)))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(visit)
    }
}

struct ArrowOpener {
    store: Arc<dyn ObjectStore>,
    /// Of the file.
    columns: Vec<usize>,
}

impl FileOpener for ArrowOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let (store, columns) = (Arc::clone(&self.store), self.columns.clone());
        Ok(Box::pin(async move {
            let meta = &file.object_meta;
            let range = file
                .range
                .map(|range| range.start.max(0) as u64..range.end.max(0) as u64);
            let first = store.get_range(&meta.location, 0..meta.size.min(MAGIC.len() as u64));
            if first.await? == MAGIC {
                read_blocks(store, meta, range, columns).await
            } else if range.is_none_or(|range| range.start == 0) {
                Ok(read_stream(store, meta, columns))
            } else {
                // Cannot be divided: the first part has all of it.
                Ok(stream::empty().boxed())
            }
        }))
    }
}

type Rows = BoxStream<'static, Result<RecordBatch>>;

/// A file with a footer: those of its batches that begin within `range`.
async fn read_blocks(
    store: Arc<dyn ObjectStore>,
    meta: &ObjectMeta,
    range: Option<Range<u64>>,
    columns: Vec<usize>,
) -> Result<Rows> {
    let (path, bytes) = (meta.location.clone(), meta.size);
    let Footer {
        mut decoder,
        dictionaries,
        batches,
    } = read_footer(store.as_ref(), &path, bytes, columns).await?;
    for block in &dictionaries {
        let message = store.get_range(&path, extent(block, bytes)?).await?;
        check_block(block, &message)?;
        decoder.read_dictionary(block, &Buffer::from(message))?;
    }
    let mut runs: Vec<Run> = Vec::new();
    for block in batches {
        let extent = extent(&block, bytes)?;
        if range.as_ref().is_some_and(|range| !range.contains(&extent.start)) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.takes(&extent) => run.add(block, &extent),
            _ => runs.push(Run {
                extent,
                blocks: vec![block],
            }),
        }
    }
    let decoder = Arc::new(decoder);
    let fetched = stream::iter(runs).map(move |run| {
        let (store, path) = (Arc::clone(&store), path.clone());
        async move {
            let bytes = store.get_range(&path, run.extent.clone()).await?;
            Ok::<_, DataFusionError>((run, Buffer::from(bytes)))
        }
    });
    // The next while one is decoded.
    let batches = fetched
        .buffered(2)
        .map_ok(move |(run, bytes)| stream::iter(run.batches(Arc::clone(&decoder), bytes)));
    Ok(batches.try_flatten().boxed())
}

struct Footer {
    decoder: FileDecoder,
    dictionaries: Vec<Block>,
    batches: Vec<Block>,
}

async fn read_footer(store: &dyn ObjectStore, path: &Path, bytes: u64, columns: Vec<usize>) -> Result<Footer> {
    let Some(end) = bytes.checked_sub(TRAILER_BYTES) else {
        return Err(damaged("the file is shorter than its footer").into());
    };
    let trailer = store.get_range(path, end..bytes).await?;
    let Ok(trailer) = <[u8; TRAILER_BYTES as usize]>::try_from(trailer.as_ref()) else {
        return Err(damaged("the file became shorter while it was read").into());
    };
    let length = read_footer_length(trailer).map_err(|error| damaged(&error.to_string()))?;
    let Some(start) = end.checked_sub(length as u64) else {
        return Err(damaged("the footer is longer than the file").into());
    };
    let footer = store.get_range(path, start..end).await?;
    let footer = root_as_footer(&footer).map_err(|error| damaged(&format!("no footer: {error}")))?;
    let Some(schema) = footer.schema() else {
        return Err(damaged("the footer names no columns").into());
    };
    let schema = fb_to_schema(schema);
    if columns.iter().any(|&column| column >= schema.fields().len()) {
        return Err(damaged("the file has fewer columns than the table").into());
    }
    Ok(Footer {
        decoder: FileDecoder::new(Arc::new(schema), footer.version()).with_projection(columns),
        dictionaries: footer.dictionaries().iter().flatten().copied().collect(),
        batches: footer.recordBatches().iter().flatten().copied().collect(),
    })
}

/// Blocks that are fetched together.
struct Run {
    extent: Range<u64>,
    blocks: Vec<Block>,
}

impl Run {
    fn takes(&self, next: &Range<u64>) -> bool {
        // Blocks are padded to a multiple of a few bytes.
        (self.extent.end..self.extent.end + 64).contains(&next.start) && next.end - self.extent.start <= FETCH_BYTES
    }

    fn add(&mut self, block: Block, extent: &Range<u64>) {
        self.extent.end = extent.end;
        self.blocks.push(block);
    }

    /// Its batches, each decoded when its turn comes.
    fn batches(self, decoder: Arc<FileDecoder>, bytes: Buffer) -> impl Iterator<Item = Result<RecordBatch>> {
        let start = self.extent.start;
        self.blocks.into_iter().filter_map(move |block| {
            let decoded = part(&bytes, start, &block).and_then(|message| {
                check_block(&block, &message)?;
                decoder.read_record_batch(&block, &message)
            });
            decoded.map_err(Into::into).transpose()
        })
    }
}

/// The bytes of `block` among those that begin at `start` of the file.
fn part(bytes: &Buffer, start: u64, block: &Block) -> Result<Buffer, ArrowError> {
    let Range { start: first, end } = extent(block, start + bytes.len() as u64)?;
    Ok(bytes.slice_with_length((first - start) as usize, (end - first) as usize))
}

/// Where `block` lies in a file of `bytes`.
fn extent(block: &Block, bytes: u64) -> Result<Range<u64>, ArrowError> {
    let lengths = (
        u64::try_from(block.offset()),
        u64::try_from(block.metaDataLength()),
        u64::try_from(block.bodyLength()),
    );
    let (Ok(start), Ok(metadata), Ok(body)) = lengths else {
        return Err(damaged("the footer has a negative length"));
    };
    let end = start.checked_add(metadata).and_then(|end| end.checked_add(body));
    match end {
        Some(end) if end <= bytes && (8..=METADATA_BYTES_MAX).contains(&metadata) => Ok(start..end),
        _ => Err(damaged("the footer names a batch outside of the file")),
    }
}

/// Looks through the message of `block` before anything is allocated for it.
fn check_block(block: &Block, message: &[u8]) -> Result<(), ArrowError> {
    let Some((metadata, body)) = message.split_at_checked(block.metaDataLength() as usize) else {
        return Err(damaged("a batch is shorter than its metadata"));
    };
    // A length, in files of today behind a mark of as many bytes.
    let prefix = if metadata.starts_with(&CONTINUATION) { 8 } else { 4 };
    check_message(metadata.get(prefix..).unwrap_or_default(), body)
}

const CONTINUATION: [u8; 4] = [0xff; 4];

/// Refuses buffers that lie outside of `body`, and what would not fit in memory.
fn check_message(metadata: &[u8], body: &[u8]) -> Result<(), ArrowError> {
    const LENGTH_BYTES: usize = 8;
    let message = root_as_message(metadata).map_err(|error| damaged(&format!("no message: {error}")))?;
    let dictionary = message.header_as_dictionary_batch();
    let Some(batch) = message
        .header_as_record_batch()
        .or_else(|| dictionary.and_then(|dictionary| dictionary.data()))
    else {
        return Ok(());
    };
    if batch.length() < 0 || batch.nodes().iter().flatten().any(|node| node.length() < 0) {
        return Err(damaged("a column has a negative number of rows"));
    }
    let mut decompressed = 0_u64;
    for buffer in batch.buffers().iter().flatten() {
        let (Ok(first), Ok(length)) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length())) else {
            return Err(damaged("a buffer has a negative length"));
        };
        let Some(bytes) = first.checked_add(length).and_then(|end| body.get(first..end)) else {
            return Err(damaged("a buffer lies outside of its batch"));
        };
        if let (true, Some(declared)) = (batch.compression().is_some(), bytes.first_chunk::<LENGTH_BYTES>()) {
            // -1 says that this one is not compressed.
            decompressed = decompressed.saturating_add(i64::from_le_bytes(*declared).max(0) as u64);
        }
    }
    if decompressed > MESSAGE_BYTES_MAX {
        return Err(damaged(&format!(
            "a batch says that it has {decompressed} bytes when decompressed, more than the limit of {MESSAGE_BYTES_MAX}"
        )));
    }
    Ok(())
}

/// A file of the streaming format: messages one after the other, up to an empty one or the end.
fn read_stream(store: Arc<dyn ObjectStore>, meta: &ObjectMeta, columns: Vec<usize>) -> Rows {
    let reading = StreamReading {
        file: BufReader::new(store, meta),
        left: meta.size,
        decoder: StreamDecoder::new(),
        columns,
        ready: VecDeque::new(),
        ended: false,
    };
    stream::try_unfold(reading, |mut reading| async move {
        Ok(reading.next().await?.map(|batch| (batch, reading)))
    })
    .boxed()
}

struct StreamReading {
    file: BufReader,
    /// Bytes of the file that are still to come.
    left: u64,
    decoder: StreamDecoder,
    columns: Vec<usize>,
    /// Decoded, and not handed on yet: a batch without a body is decoded when the next message comes.
    ready: VecDeque<RecordBatch>,
    ended: bool,
}

impl StreamReading {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.ready.is_empty() && !self.ended {
            if self.left == 0 {
                self.end()?;
                break;
            }
            let mut frame = self.take(4).await?;
            if frame == CONTINUATION {
                frame = self.take(4).await?;
            }
            let length = frame.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
            if length == 0 {
                self.end()?;
                break;
            }
            if u64::from(length) > METADATA_BYTES_MAX {
                return Err(damaged("a message is longer than any").into());
            }
            let metadata = self.take(u64::from(length)).await?;
            let message = root_as_message(&metadata).map_err(|error| damaged(&format!("no message: {error}")))?;
            let Ok(length) = u64::try_from(message.bodyLength()) else {
                return Err(damaged("a message has a negative length").into());
            };
            let body = self.take(length).await?;
            check_message(&metadata, &body)?;
            for part in [frame, metadata, body] {
                self.decode(part)?;
            }
        }
        Ok(self.ready.pop_front())
    }

    /// Tells the decoder that nothing follows.
    fn end(&mut self) -> Result<()> {
        self.ended = true;
        self.decode([CONTINUATION, [0; 4]].concat())
    }

    async fn take(&mut self, bytes: u64) -> Result<Vec<u8>> {
        let Some(left) = self.left.checked_sub(bytes) else {
            return Err(damaged("the file ends within a message").into());
        };
        let mut taken = vec![0; bytes as usize];
        self.file.read_exact(&mut taken).await?;
        self.left = left;
        Ok(taken)
    }

    fn decode(&mut self, part: Vec<u8>) -> Result<()> {
        let mut part = Buffer::from(part);
        while !part.is_empty() {
            if let Some(batch) = self.decoder.decode(&mut part)? {
                self.ready.push_back(batch.project(&self.columns)?);
            }
        }
        Ok(())
    }
}

fn damaged(what: &str) -> ArrowError {
    ArrowError::IpcError(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{Array, ArrayRef, DictionaryArray, Int64Array, NullArray, StringArray, UInt32Array};
    use datafusion::arrow::compute::concat_batches;
    use datafusion::arrow::datatypes::Int32Type;
    use datafusion::arrow::ipc::CompressionType;
    use datafusion::arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
    use object_store::memory::InMemory;

    fn batch(first: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + 1000));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..1000).map(|row| format!("row {row}"))));
        let words: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::from_iter(
            (0..1000).map(|row| ["a", "b"][row % 2]),
        ));
        RecordBatch::try_from_iter([("n", numbers), ("s", texts), ("d", words)]).unwrap()
    }

    fn options() -> IpcWriteOptions {
        let compression = Some(CompressionType::LZ4_FRAME);
        IpcWriteOptions::default().try_with_compression(compression).unwrap()
    }

    /// Five batches in a file with a footer.
    fn file() -> Vec<u8> {
        let mut writer = FileWriter::try_new_with_options(Vec::new(), &batch(0).schema(), options()).unwrap();
        for first in 0..5 {
            writer.write(&batch(first * 1000)).unwrap();
        }
        writer.into_inner().unwrap()
    }

    /// The same as a stream.
    fn stream() -> Vec<u8> {
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch(0).schema(), options()).unwrap();
        for first in 0..5 {
            writer.write(&batch(first * 1000)).unwrap();
        }
        writer.into_inner().unwrap()
    }

    async fn read(bytes: &[u8], range: Option<Range<i64>>, columns: &[usize]) -> Result<Vec<RecordBatch>> {
        let store = Arc::new(InMemory::new());
        let path = Path::from("t.arrow");
        store.put(&path, bytes.to_vec().into()).await.unwrap();
        let mut file = PartitionedFile::new_from_meta(store.head(&path).await.unwrap());
        if let Some(range) = range {
            file = file.with_range(range.start, range.end);
        }
        let opener = ArrowOpener {
            store,
            columns: columns.to_vec(),
        };
        opener.open(file)?.await?.try_collect().await
    }

    #[tokio::test]
    async fn both_formats_are_read() {
        let expected: Vec<_> = (0..5).map(|first| batch(first * 1000)).collect();
        let expected = concat_batches(&batch(0).schema(), &expected).unwrap();
        for bytes in [file(), stream()] {
            let found = read(&bytes, None, &[0, 1, 2]).await.unwrap();
            assert_eq!(concat_batches(&found[0].schema(), &found).unwrap(), expected);
            let found = read(&bytes, None, &[1]).await.unwrap();
            assert_eq!(found[4].columns(), [Arc::clone(expected.column(1)).slice(4000, 1000)]);
        }
    }

    #[tokio::test]
    async fn each_batch_is_in_one_part() {
        for bytes in [file(), stream()] {
            let length = bytes.len() as i64;
            for parts in 1..9 {
                let mut rows = 0;
                for part in 0..parts {
                    let range = length * part / parts..length * (part + 1) / parts;
                    let found = read(&bytes, Some(range), &[0]).await.unwrap();
                    rows += found.iter().map(RecordBatch::num_rows).sum::<usize>();
                }
                assert_eq!(rows, 5000, "{parts} parts");
            }
        }
    }

    #[tokio::test]
    async fn a_stream_may_end_in_a_batch_without_a_body() {
        let nothing: ArrayRef = Arc::new(NullArray::new(7));
        let batch = RecordBatch::try_from_iter([("nothing", nothing)]).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        let bytes = writer.into_inner().unwrap();
        assert_eq!(read(&bytes, None, &[0]).await.unwrap(), std::slice::from_ref(&batch));
        // Whoever writes need not say that it is the end.
        let open = &bytes[..bytes.len() - 8];
        assert_eq!(read(open, None, &[0]).await.unwrap(), [batch]);
    }

    /// The length at the beginning of a compressed buffer, replaced by each of `lengths`.
    #[tokio::test]
    async fn a_length_that_cannot_be_is_refused() {
        let column: ArrayRef = Arc::new(UInt32Array::from(vec![7; 1000]));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let mut writer = FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options()).unwrap();
        writer.write(&batch).unwrap();
        let intact = writer.into_inner().unwrap();
        assert_eq!(read(&intact, None, &[0]).await.unwrap(), [batch]);
        let at = intact
            .windows(8)
            .position(|bytes| bytes == 4000_u64.to_le_bytes())
            .unwrap();
        for (length, says) in [(1_u64 << 50, "more than the limit"), (4001, "4001"), (0, "")] {
            let mut bytes = intact.clone();
            bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
            let error = read(&bytes, None, &[0]).await.unwrap_err().to_string();
            assert!(error.contains(says), "{length}: {error}");
        }
    }

    #[tokio::test]
    async fn what_was_cut_off_is_an_error() {
        for bytes in [file(), stream()] {
            for length in (1..bytes.len() - 8).step_by(97) {
                let found = read(&bytes[..length], None, &[0]).await;
                // A stream may end after any message.
                let rows = found.map_or(0, |batches| batches.iter().map(RecordBatch::num_rows).sum());
                assert!(rows < 5000, "{length} of {} bytes", bytes.len());
            }
        }
    }
}
