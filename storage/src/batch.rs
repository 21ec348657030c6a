//! Kafka record batches, format 2 ("magic 2"): the bytes of records on disk and on every wire.
//!
//! Owns the encoding ([`RecordBody`], [`BatchBuilder`]) and the decoding ([`BatchView`]) of batches. Never allocates by a length
//! it has read, never panics on bytes from outside, never decompresses. All integers are big endian; lengths inside records are
//! zigzag varints. Layout: <https://kafka.apache.org/documentation/#recordbatch>.
//!
//! Invariants: what the builder writes, the view accepts and every Kafka client reads; the checksum covers all bytes from the
//! attributes on, so base offset and leader epoch are assigned in place ([`assign`]) without touching a record.

#[cfg(test)]
mod tests;
mod varint;

use crate::error::{Result, StorageError};
use crate::types::{Offset, TimestampMs};
use varint::{Input, Integers};

/// Bytes before the first record.
pub const HEADER_BYTES: usize = RECORDS_AT;
/// Bytes not counted by the batch length field: base offset and the field itself.
pub const LENGTH_EXCLUDES_BYTES: usize = 12;
/// The smallest record: seven varints of one byte each (length, attributes, two deltas, null key, null value, no headers).
pub const RECORD_BYTES_MIN: usize = 7;
/// The smallest header of a record: an empty name and a null value.
const RECORD_HEADER_BYTES_MIN: usize = 2;
/// The only format there is: 0 and 1 predate Kafka 0.11.
pub const MAGIC: i8 = 2;

pub const BASE_OFFSET_AT: usize = 0;
pub const BATCH_LENGTH_AT: usize = 8;
pub const LEADER_EPOCH_AT: usize = 12;
pub const MAGIC_AT: usize = 16;
pub const CRC_AT: usize = 17;
pub const ATTRIBUTES_AT: usize = 21;
pub const LAST_OFFSET_DELTA_AT: usize = 23;
pub const BASE_TIMESTAMP_AT: usize = 27;
pub const MAX_TIMESTAMP_AT: usize = 35;
pub const PRODUCER_ID_AT: usize = 43;
pub const PRODUCER_EPOCH_AT: usize = 51;
pub const BASE_SEQUENCE_AT: usize = 53;
pub const RECORD_COUNT_AT: usize = 57;
pub const RECORDS_AT: usize = 61;

const COMPRESSION_MASK: i16 = 0x07;
const APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;

/// Producer id, epoch and sequence of records that no idempotent producer wrote.
const NO_PRODUCER: i8 = -1;

/// How the records of a batch are compressed: the low three bits of its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    const fn from_attributes(attributes: i16) -> Option<Self> {
        match attributes & COMPRESSION_MASK {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }
}

// ---- Writing -------------------------------------------------------------------------------------------------------------

/// A record, encoded once by the thread that produced it, ready to be copied into whatever batch it ends up in.
///
/// Its bytes are those of a Kafka record from the key length on: all that does not depend on its place in the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBody {
    timestamp: TimestampMs,
    tail: Vec<u8>,
}

impl RecordBody {
    /// Encodes a record with one allocation of the exact size. Limits on its size are the caller's: a batch cannot exceed 2 GiB.
    pub fn encode<'h>(
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = (&'h str, Option<&'h [u8]>)> + Clone,
    ) -> Self {
        let bytes = tail_bytes(key, value, headers.clone());
        let mut tail = Vec::with_capacity(bytes);
        put_tail(&mut tail, key, value, headers);
        debug_assert_eq!(tail.len(), bytes, "the size of a record was computed wrongly");
        Self { timestamp, tail }
    }

    #[must_use]
    pub const fn timestamp(&self) -> TimestampMs {
        self.timestamp
    }

    /// The bytes from the key length to the last header.
    #[must_use]
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// The most bytes this record can take in a batch.
    #[must_use]
    pub const fn len_bytes_max(&self) -> usize {
        self.tail.len() + RECORD_PREFIX_BYTES_MAX
    }
}

/// Bytes of a record from the key length to the last header.
fn tail_bytes<'h>(key: Option<&[u8]>, value: Option<&[u8]>, headers: impl ExactSizeIterator<Item = (&'h str, Option<&'h [u8]>)>) -> usize {
    let count = varint::len(headers.len() as i64);
    let headers: usize = headers.map(|(name, value)| nullable_bytes(Some(name.as_bytes())) + nullable_bytes(value)).sum();
    nullable_bytes(key) + nullable_bytes(value) + count + headers
}

fn put_tail<'h>(
    out: &mut Vec<u8>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl ExactSizeIterator<Item = (&'h str, Option<&'h [u8]>)>,
) {
    put_nullable(out, key);
    put_nullable(out, value);
    varint::put(out, headers.len() as i64);
    for (name, value) in headers {
        put_nullable(out, Some(name.as_bytes()));
        put_nullable(out, value);
    }
}

/// Length, attributes, timestamp delta and offset delta of one record, at their longest.
const RECORD_PREFIX_BYTES_MAX: usize = 5 + 1 + varint::VARINT_BYTES_MAX + 5;

const fn nullable_bytes(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varint::len(bytes.len() as i64) + bytes.len(),
        None => varint::len(-1),
    }
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            varint::put(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => varint::put(out, -1),
    }
}

/// Merges records of one partition into one batch. One builder serves many batches and keeps its memory between them.
///
/// The owner bounds what it pushes ([`Self::len_bytes`]): far below the 2 GiB that a batch length can say.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    /// Headroom and room for the header, then the records; empty before the first one.
    bytes: Vec<u8>,
    /// Bytes in front of the batch, for whoever takes the buffer over.
    headroom: usize,
    count: i32,
    base_timestamp: TimestampMs,
    max_timestamp: TimestampMs,
}

impl BatchBuilder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With room for a batch of `capacity` bytes, and `headroom` bytes in front of it.
    #[must_use]
    pub fn with_headroom(headroom: usize, capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(headroom + HEADER_BYTES + capacity), headroom, ..Self::default() }
    }

    /// Adds a record behind those already there.
    pub fn push(&mut self, body: &RecordBody) {
        self.put_prefix(body.timestamp, body.tail.len());
        self.bytes.extend_from_slice(&body.tail);
    }

    /// Encodes a record right into the batch.
    pub fn push_record<'h>(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = (&'h str, Option<&'h [u8]>)> + Clone,
    ) {
        self.put_prefix(timestamp, tail_bytes(key, value, headers.clone()));
        put_tail(&mut self.bytes, key, value, headers);
    }

    /// What stands before a record's tail; makes room for both.
    fn put_prefix(&mut self, timestamp: TimestampMs, tail_bytes: usize) {
        if self.count == 0 {
            self.bytes.resize(self.headroom + HEADER_BYTES, 0);
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        // Wrapping on both sides: any pair of timestamps survives the round trip.
        let timestamp_delta = timestamp.0.wrapping_sub(self.base_timestamp.0);
        let offset_delta = i64::from(self.count);
        let bytes = 1 + varint::len(timestamp_delta) + varint::len(offset_delta) + tail_bytes;
        let mut prefix = Integers::default();
        prefix.put(bytes as i64);
        prefix.byte(0);
        prefix.put(timestamp_delta);
        prefix.put(offset_delta);
        self.bytes.reserve(tail_bytes + RECORD_PREFIX_BYTES_MAX);
        self.bytes.extend_from_slice(prefix.bytes());
        self.count += 1;
    }

    /// The greatest timestamp pushed since the last batch.
    #[must_use]
    pub const fn max_timestamp(&self) -> TimestampMs {
        self.max_timestamp
    }

    /// Bytes that [`Self::finish_into`] would write now.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(self.headroom)
    }

    /// Records pushed since the last batch.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count.cast_unsigned() as usize
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends the batch to `out` and starts the next one. Writes nothing when there are no records.
    pub fn finish_into(&mut self, base_offset: Offset, out: &mut Vec<u8>) {
        if self.is_empty() {
            return;
        }
        self.seal(base_offset);
        out.extend_from_slice(self.bytes.get(self.headroom..).unwrap_or_default());
        self.bytes.clear();
        self.count = 0;
    }

    /// The batch itself behind `headroom` bytes, without copying it if it was built with as many. Empty when there are no records.
    #[must_use]
    pub fn into_batch(mut self, base_offset: Offset, headroom: usize) -> Vec<u8> {
        if !self.is_empty() {
            self.seal(base_offset);
        }
        if self.headroom != headroom {
            // Built by somebody who did not know where it would go.
            self.bytes.splice(..self.headroom.min(self.bytes.len()), std::iter::repeat_n(0, headroom));
        }
        self.bytes
    }

    /// Fills in the header in front of the records.
    fn seal(&mut self, base_offset: Offset) {
        let length = self.len_bytes() - LENGTH_EXCLUDES_BYTES;
        debug_assert!(i32::try_from(length).is_ok(), "the owner let a batch grow beyond what its length field can say");
        let batch = self.bytes.get_mut(self.headroom..).unwrap_or_default();
        put_field(batch, BASE_OFFSET_AT, base_offset.0.to_be_bytes());
        put_field(batch, BATCH_LENGTH_AT, (length as i32).to_be_bytes());
        put_field(batch, LEADER_EPOCH_AT, 0_i32.to_be_bytes());
        put_field(batch, MAGIC_AT, MAGIC.to_be_bytes());
        put_field(batch, ATTRIBUTES_AT, 0_i16.to_be_bytes());
        put_field(batch, LAST_OFFSET_DELTA_AT, (self.count - 1).to_be_bytes());
        put_field(batch, BASE_TIMESTAMP_AT, self.base_timestamp.0.to_be_bytes());
        put_field(batch, MAX_TIMESTAMP_AT, self.max_timestamp.0.to_be_bytes());
        put_field(batch, PRODUCER_ID_AT, i64::from(NO_PRODUCER).to_be_bytes());
        put_field(batch, PRODUCER_EPOCH_AT, i16::from(NO_PRODUCER).to_be_bytes());
        put_field(batch, BASE_SEQUENCE_AT, i32::from(NO_PRODUCER).to_be_bytes());
        put_field(batch, RECORD_COUNT_AT, self.count.to_be_bytes());
        let crc = crc_of(batch);
        put_field(batch, CRC_AT, crc.to_be_bytes());
    }
}

fn crc_of(batch: &[u8]) -> u32 {
    crc32c::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default())
}

/// Gives the batch at the front of `bytes` its place in the log. The checksum does not cover these two fields.
///
/// # Errors
/// [`StorageError::Invalid`] when `bytes` is shorter than the header of a batch.
pub fn assign(bytes: &mut [u8], base_offset: Offset, leader_epoch: i32) -> Result<()> {
    if bytes.len() < HEADER_BYTES {
        return invalid("shorter than its header");
    }
    put_field(bytes, BASE_OFFSET_AT, base_offset.0.to_be_bytes());
    put_field(bytes, LEADER_EPOCH_AT, leader_epoch.to_be_bytes());
    Ok(())
}

fn put_field<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<N>()) {
        *field = value;
    }
}

// ---- Reading -------------------------------------------------------------------------------------------------------------

fn invalid<T>(what: &str) -> Result<T> {
    Err(StorageError::Invalid(format!("record batch: {what}")))
}

/// A batch whose header makes sense. Its checksum is only looked at by [`Self::verify_crc`], its records by [`Self::records`].
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    /// Exactly the batch; at least a header long.
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// The batch at the front of `bytes`; what follows it is ignored ([`Self::total_bytes`] says where).
    ///
    /// # Errors
    /// [`StorageError::Invalid`] names what is wrong with the header.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() < HEADER_BYTES {
            return invalid("shorter than its header");
        }
        let unbounded = Self { bytes };
        if unbounded.magic() != MAGIC {
            return Err(StorageError::Invalid(format!("record batch: format {}, only format {MAGIC} is known", unbounded.magic())));
        }
        let length = i32::from_be_bytes(unbounded.field(BATCH_LENGTH_AT));
        let total = usize::try_from(length).ok().and_then(|length| length.checked_add(LENGTH_EXCLUDES_BYTES));
        let Some(total) = total.filter(|total| *total >= HEADER_BYTES) else {
            return invalid("its length is less than its header");
        };
        let Some(bytes) = bytes.get(..total) else {
            return invalid("its length is more than the bytes that are there");
        };
        let batch = Self { bytes };
        batch.check_counts()?;
        Ok(batch)
    }

    fn check_counts(&self) -> Result<()> {
        let Some(compression) = Compression::from_attributes(self.attributes()) else {
            return invalid("unknown compression");
        };
        let Ok(count) = usize::try_from(self.count_field()) else {
            return invalid("its record count is negative");
        };
        if self.last_offset_delta() < 0 || i64::from(self.count_field()) > i64::from(self.last_offset_delta()) + 1 {
            return invalid("more records than offsets");
        }
        let records_bytes = self.bytes.len() - HEADER_BYTES;
        if compression == Compression::None && count > records_bytes / RECORD_BYTES_MIN {
            return invalid("more records than its bytes can hold");
        }
        if count == 0 && records_bytes > 0 {
            return invalid("bytes, but no records");
        }
        Ok(())
    }

    /// The field at `at`. `parse` has checked that the header is there, so the default is never used.
    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
    }

    fn magic(&self) -> i8 {
        i8::from_be_bytes(self.field(MAGIC_AT))
    }

    fn count_field(&self) -> i32 {
        i32::from_be_bytes(self.field(RECORD_COUNT_AT))
    }

    /// The bytes of the whole batch, header included.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn base_offset(&self) -> Offset {
        Offset(i64::from_be_bytes(self.field(BASE_OFFSET_AT)))
    }

    #[must_use]
    pub fn leader_epoch(&self) -> i32 {
        i32::from_be_bytes(self.field(LEADER_EPOCH_AT))
    }

    #[must_use]
    pub fn crc(&self) -> u32 {
        u32::from_be_bytes(self.field(CRC_AT))
    }

    #[must_use]
    pub fn attributes(&self) -> i16 {
        i16::from_be_bytes(self.field(ATTRIBUTES_AT))
    }

    #[must_use]
    pub fn last_offset_delta(&self) -> i32 {
        i32::from_be_bytes(self.field(LAST_OFFSET_DELTA_AT))
    }

    /// Offset of the last record, or where it was before compaction took it.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset().plus(i64::from(self.last_offset_delta()))
    }

    #[must_use]
    pub fn base_timestamp(&self) -> TimestampMs {
        TimestampMs(i64::from_be_bytes(self.field(BASE_TIMESTAMP_AT)))
    }

    #[must_use]
    pub fn max_timestamp(&self) -> TimestampMs {
        TimestampMs(i64::from_be_bytes(self.field(MAX_TIMESTAMP_AT)))
    }

    /// Number of the idempotent producer, -1 for none.
    #[must_use]
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(self.field(PRODUCER_ID_AT))
    }

    #[must_use]
    pub fn producer_epoch(&self) -> i16 {
        i16::from_be_bytes(self.field(PRODUCER_EPOCH_AT))
    }

    #[must_use]
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(self.field(BASE_SEQUENCE_AT))
    }

    /// Records in the batch. For a compressed batch this is what the header claims: size nothing by it.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::try_from(self.count_field()).unwrap_or_default()
    }

    /// Whether each offset of the batch has a record: so for whatever a producer sends, not for what compaction left.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        i64::from(self.count_field()) == i64::from(self.last_offset_delta()) + 1
    }

    #[must_use]
    pub fn compression(&self) -> Compression {
        // `parse` has refused unknown codecs.
        Compression::from_attributes(self.attributes()).unwrap_or(Compression::None)
    }

    /// Whether the broker's clock stamped the records (all with [`Self::max_timestamp`]), not the producer's.
    #[must_use]
    pub fn is_append_time(&self) -> bool {
        self.attributes() & APPEND_TIME_BIT != 0
    }

    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL_BIT != 0
    }

    /// Whether its records are transaction markers, which no consumer sees.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL_BIT != 0
    }

    /// Whether the bytes from the attributes on are those that were written.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] with both checksums.
    pub fn verify_crc(&self) -> Result<()> {
        let (expected, actual) = (self.crc(), crc_of(self.bytes));
        if expected == actual {
            return Ok(());
        }
        Err(StorageError::Invalid(format!("record batch: checksum {actual:08x}, its header says {expected:08x}")))
    }

    /// The records, first to last.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] when the batch is compressed.
    pub fn records(&self) -> Result<RecordIter<'a>> {
        if self.compression() != Compression::None {
            return Err(StorageError::Invalid(format!("record batch: {:?} compression is not supported", self.compression())));
        }
        Ok(RecordIter {
            input: Input(self.bytes.get(RECORDS_AT..).unwrap_or_default()),
            left: self.count(),
            offset_delta_min: 0,
            offset_delta_max: i64::from(self.last_offset_delta()),
            base_timestamp: self.base_timestamp(),
            append_time: self.is_append_time().then(|| self.max_timestamp()),
        })
    }
}

/// The records of an uncompressed batch. Ends after the first error.
///
/// Offset deltas must rise and stay within the batch; in a dense batch (see [`BatchView::is_dense`]) they are then 0, 1, 2, ...
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    input: Input<'a>,
    left: usize,
    offset_delta_min: i64,
    offset_delta_max: i64,
    base_timestamp: TimestampMs,
    append_time: Option<TimestampMs>,
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordView<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.read();
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // `parse` has checked the count against the bytes; after an error there is less.
        (0, Some(self.left))
    }
}

impl std::iter::FusedIterator for RecordIter<'_> {}

impl<'a> RecordIter<'a> {
    fn read(&mut self) -> Result<RecordView<'a>> {
        let Some(bytes) = self.input.length().and_then(|length| self.input.take(length)) else {
            return invalid("a record is longer than the batch");
        };
        let Some(mut record) = read_record(bytes, self.base_timestamp) else {
            return invalid("a record is malformed");
        };
        let offset_delta = i64::from(record.offset_delta);
        if offset_delta < self.offset_delta_min || offset_delta > self.offset_delta_max {
            return invalid("the offsets of its records are out of order");
        }
        if self.left == 0 && !self.input.0.is_empty() {
            return invalid("bytes follow its last record");
        }
        self.offset_delta_min = offset_delta + 1;
        if let Some(stamp) = self.append_time {
            record.timestamp = stamp;
        }
        Ok(record)
    }
}

fn read_record(bytes: &[u8], base_timestamp: TimestampMs) -> Option<RecordView<'_>> {
    let mut input = Input(bytes);
    let _attributes = input.byte()?;
    let timestamp_delta = input.varlong()?;
    let offset_delta = input.varint()?;
    let key = input.nullable()?;
    let value = input.nullable()?;
    let count = input.length()?;
    let headers = HeaderIter { input, left: count };
    let whole = count <= input.0.len() / RECORD_HEADER_BYTES_MIN && headers.clone().read_all();
    let timestamp = TimestampMs(base_timestamp.0.wrapping_add(timestamp_delta));
    whole.then_some(RecordView { offset_delta, timestamp, key, value, headers })
}

/// A record inside a batch. Everything in it, headers included, has been checked and borrows from the batch.
#[derive(Clone, Debug)]
pub struct RecordView<'a> {
    /// Offset of the record, counted from the batch's base offset.
    pub offset_delta: i32,
    pub timestamp: TimestampMs,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    headers: HeaderIter<'a>,
}

impl<'a> RecordView<'a> {
    /// The headers in their order; names may repeat.
    #[must_use]
    pub fn headers(&self) -> HeaderIter<'a> {
        self.headers.clone()
    }
}

/// The headers of a record. Their number and bytes were checked when the record was read.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    input: Input<'a>,
    left: usize,
}

impl<'a> HeaderIter<'a> {
    fn read(&mut self) -> Option<(&'a str, Option<&'a [u8]>)> {
        let length = self.input.length()?;
        let name = std::str::from_utf8(self.input.take(length)?).ok()?;
        Some((name, self.input.nullable()?))
    }

    /// Whether all headers are there and nothing follows them.
    fn read_all(mut self) -> bool {
        (0..self.left).all(|_| self.read().is_some()) && self.input.0.is_empty()
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.read()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for HeaderIter<'_> {}
