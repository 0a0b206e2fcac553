//! Rows into the bytes of one file: Parquet, CSV, JSON lines or Arrow IPC, compressed where the format has that outside.
//!
//! An encoder keeps what it has encoded until [`Encoder::take`] is called, and for Parquet what belongs to the row group
//! under way. It never does I/O.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::common::config::TableOptions;
use datafusion::common::file_options::csv_writer::CsvWriterOptions;
use datafusion::common::file_options::json_writer::JsonWriterOptions;
use datafusion::common::file_options::parquet_writer::ParquetWriterOptions;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_writer::ArrowWriterOptions;
use parking_lot::Mutex;

/// Bytes of a Parquet row group under way at which it is closed, whatever its number of rows and however much memory there
/// is.
const ROW_GROUP_BYTES_MAX: usize = 64 << 20;

/// Encoded bytes that are taken at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// How files of a write look.
#[derive(Debug, Clone)]
pub struct FileStyle {
    /// `parquet`, `csv`, `json` or `arrow`.
    pub format: String,
    /// Settings of all formats, defaults included.
    pub options: TableOptions,
}

impl FileStyle {
    /// Ending of the files' names, with the compression's where it is outside: `csv.gz`.
    ///
    /// # Errors
    /// A format that cannot be written.
    pub fn extension(&self) -> Result<String> {
        let outer = match self.format.as_str() {
            "parquet" | "arrow" => "",
            "csv" => outer_extension(self.options.csv.compression),
            "json" => outer_extension(self.options.json.compression),
            other => return plan_err!("files of format {other:?} cannot be written; parquet, csv, json and arrow can"),
        };
        Ok(format!("{}{outer}", self.format))
    }
}

fn outer_extension(compression: CompressionTypeVariant) -> &'static str {
    match compression {
        CompressionTypeVariant::GZIP => ".gz",
        CompressionTypeVariant::BZIP2 => ".bz2",
        CompressionTypeVariant::XZ => ".xz",
        CompressionTypeVariant::ZSTD => ".zst",
        CompressionTypeVariant::UNCOMPRESSED => "",
    }
}

/// Encodes the rows of one file.
pub struct Encoder {
    rows: Rows,
    bytes: SharedBytes,
}

enum Rows {
    Parquet(Box<ArrowWriter<SharedBytes>>),
    Arrow(Box<FileWriter<SharedBytes>>),
    Csv(Box<csv::Writer<Outer>>),
    Json(Box<LineDelimitedWriter<Outer>>),
}

impl Encoder {
    /// An encoder of rows of `schema`.
    ///
    /// # Errors
    /// Settings that contradict each other, types that the format cannot hold.
    pub fn new(style: &FileStyle, schema: SchemaRef) -> Result<Self> {
        let bytes = SharedBytes::default();
        let rows = match style.format.as_str() {
            "parquet" => {
                let mut parquet = style.options.parquet.clone();
                // The schema in Arrow's own terms goes into the footer, so that readers get the types back exactly.
                parquet.global.skip_arrow_metadata = true;
                let properties = ParquetWriterOptions::try_from(&parquet)?.writer_options().clone();
                let options = ArrowWriterOptions::new().with_properties(properties);
                Rows::Parquet(Box::new(ArrowWriter::try_new_with_options(
                    bytes.clone(),
                    schema,
                    options,
                )?))
            }
            "arrow" => {
                let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
                Rows::Arrow(Box::new(FileWriter::try_new_with_options(
                    bytes.clone(),
                    &schema,
                    options,
                )?))
            }
            "csv" => {
                let options = CsvWriterOptions::try_from(&style.options.csv)?;
                let outer = Outer::new(style.options.csv.compression, bytes.clone())?;
                Rows::Csv(Box::new(options.writer_options.build(outer)))
            }
            "json" => {
                let options = JsonWriterOptions::try_from(&style.options.json)?;
                Rows::Json(Box::new(LineDelimitedWriter::new(Outer::new(
                    options.compression,
                    bytes.clone(),
                )?)))
            }
            other => return plan_err!("files of format {other:?} cannot be written"),
        };
        Ok(Self { rows, bytes })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// A value that the format cannot hold.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match &mut self.rows {
            Rows::Parquet(writer) => {
                writer.write(batch)?;
                if writer.in_progress_size() > ROW_GROUP_BYTES_MAX {
                    writer.flush()?;
                }
            }
            Rows::Arrow(writer) => writer.write(batch)?,
            Rows::Csv(writer) => writer.write(batch)?,
            Rows::Json(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    /// What has been encoded and not been taken yet, as far as it is worth a request: a mebibyte, or the end of a group.
    pub fn take(&mut self) -> Option<Bytes> {
        self.bytes.0.lock().closed.pop_front()
    }

    /// Bytes of memory that it takes.
    pub fn held_bytes(&self) -> usize {
        let under_way = match &self.rows {
            Rows::Parquet(writer) => writer.memory_size(),
            Rows::Arrow(_) | Rows::Csv(_) | Rows::Json(_) => 0,
        };
        under_way + self.bytes.0.lock().held_bytes()
    }

    /// Encodes what is under way to its end, so that all of it can be taken: a Parquet file gets another row group.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn end_group(&mut self) -> Result<()> {
        if let Rows::Parquet(writer) = &mut self.rows {
            writer.flush()?;
        }
        self.bytes.0.lock().close_last();
        Ok(())
    }

    /// Ends the file and returns its last bytes.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn finish(self) -> Result<Vec<Bytes>> {
        match self.rows {
            Rows::Parquet(writer) => drop(writer.close()?),
            Rows::Arrow(mut writer) => writer.finish()?,
            Rows::Csv(writer) => writer.into_inner().finish()?,
            Rows::Json(writer) => {
                let mut writer = *writer;
                writer.finish()?;
                writer.into_inner().finish()?;
            }
        }
        let mut chunks = self.bytes.0.lock();
        chunks.close_last();
        Ok(chunks.closed.drain(..).collect())
    }
}

/// Bytes that a library's writer puts in and the encoder takes out.
#[derive(Debug, Clone, Default)]
struct SharedBytes(Arc<Mutex<Chunks>>);

/// In pieces, so that a row group that is encoded at once need not lie in one, and is copied no more often than once.
#[derive(Debug, Default)]
struct Chunks {
    closed: VecDeque<Bytes>,
    last: Vec<u8>,
}

impl Chunks {
    fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.last.len()));
            self.last.extend_from_slice(now);
            if self.last.len() == CHUNK_BYTES {
                self.close_last();
            }
            bytes = later;
        }
    }

    fn close_last(&mut self) {
        if !self.last.is_empty() {
            self.closed.push_back(Bytes::from(std::mem::take(&mut self.last)));
        }
    }

    fn held_bytes(&self) -> usize {
        self.closed.iter().map(Bytes::len).sum::<usize>() + self.last.capacity()
    }
}

impl Write for SharedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compression around a whole file.
enum Outer {
    None(SharedBytes),
    Gzip(Box<flate2::write::GzEncoder<SharedBytes>>),
    Zstd(zstd::Encoder<'static, SharedBytes>),
}

impl Outer {
    fn new(compression: CompressionTypeVariant, bytes: SharedBytes) -> Result<Self> {
        Ok(match compression {
            CompressionTypeVariant::UNCOMPRESSED => Self::None(bytes),
            CompressionTypeVariant::GZIP => Self::Gzip(Box::new(flate2::write::GzEncoder::new(
                bytes,
                flate2::Compression::default(),
            ))),
            CompressionTypeVariant::ZSTD => Self::Zstd(zstd::Encoder::new(bytes, zstd::DEFAULT_COMPRESSION_LEVEL)?),
            CompressionTypeVariant::BZIP2 | CompressionTypeVariant::XZ => {
                return Err(DataFusionError::NotImplemented(format!(
                    "{compression:?} is read but not written; gzip and zstd are written"
                )));
            }
        })
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::None(_) => Ok(()),
            Self::Gzip(encoder) => encoder.finish().map(drop),
            Self::Zstd(encoder) => encoder.finish().map(drop),
        }
    }
}

impl Write for Outer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(writer) => writer.write(bytes),
            Self::Gzip(writer) => writer.write(bytes),
            Self::Zstd(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // Only finish() ends a compressed frame: flushing earlier would cost compression for nothing.
        Ok(())
    }
}
