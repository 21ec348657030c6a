//! Batches against themselves, against another implementation of the format, and against bytes that are no batches.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as theirs;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A record in plain words. Header names are unique: the other implementation keeps them in a map.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Plain {
    fn body(&self) -> RecordBody {
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        RecordBody::encode(TimestampMs(self.timestamp), self.key.as_deref(), self.value.as_deref(), headers)
    }

    fn of(view: &RecordView<'_>) -> Self {
        Self {
            timestamp: view.timestamp.0,
            key: view.key.map(<[u8]>::to_vec),
            value: view.value.map(<[u8]>::to_vec),
            headers: view.headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect(),
        }
    }

    fn theirs(&self, offset: i64) -> theirs::Record {
        let mut record = theirs::Record {
            transactional: false,
            control: false,
            partition_leader_epoch: 0,
            producer_id: theirs::NO_PRODUCER_ID,
            producer_epoch: theirs::NO_PRODUCER_EPOCH,
            timestamp_type: theirs::TimestampType::Creation,
            offset,
            sequence: offset as i32 - 1,
            timestamp: self.timestamp,
            key: self.key.clone().map(Bytes::from),
            value: self.value.clone().map(Bytes::from),
            headers: Default::default(),
        };
        for (name, value) in &self.headers {
            record.headers.insert(StrBytes::from_string(name.clone()), value.clone().map(Bytes::from));
        }
        record
    }

    fn of_theirs(record: &theirs::Record) -> Self {
        Self {
            timestamp: record.timestamp,
            key: record.key.as_ref().map(|key| key.to_vec()),
            value: record.value.as_ref().map(|value| value.to_vec()),
            headers: record.headers.iter().map(|(name, value)| (name.to_string(), value.as_ref().map(|v| v.to_vec()))).collect(),
        }
    }
}

/// Timestamps lie within 24 days: the other implementation cuts timestamp deltas to 32 bits, where the format has 64.
fn plain() -> impl Strategy<Value = Plain> {
    let bytes = || proptest::option::of(vec(any::<u8>(), 0..200));
    let headers = proptest::collection::btree_map(".{0,8}", bytes(), 0..4);
    (1_700_000_000_000..1_702_000_000_000_i64, bytes(), bytes(), headers).prop_map(|(timestamp, key, value, headers)| Plain {
        timestamp,
        key,
        value,
        headers: headers.into_iter().collect(),
    })
}

fn batch_of(records: &[Plain], base_offset: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    records.iter().for_each(|record| builder.push(&record.body()));
    let mut out = Vec::new();
    builder.finish_into(Offset(base_offset), &mut out);
    out
}

fn read(bytes: &[u8]) -> Result<Vec<Plain>> {
    let view = BatchView::parse(bytes)?;
    view.verify_crc()?;
    view.records()?.map(|record| record.map(|record| Plain::of(&record))).collect()
}

fn sample() -> Vec<u8> {
    let headers = vec![("type".to_owned(), Some(b"x".to_vec())), (String::new(), None)];
    let first = Plain { timestamp: 900, key: Some(b"key".to_vec()), value: Some(vec![7; 90]), headers };
    let second = Plain { timestamp: 1_000, key: None, value: None, headers: Vec::new() };
    let third = Plain { timestamp: 800, ..second.clone() };
    batch_of(&[first, second, third], 40)
}

fn with(mut batch: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    reseal(&mut batch);
    batch
}

fn refusal(bytes: &[u8]) -> String {
    match read(bytes) {
        Ok(records) => format!("accepted {} records", records.len()),
        Err(error) => error.to_string(),
    }
}

/// Gives a changed batch a checksum that fits.
fn reseal(batch: &mut [u8]) {
    let crc = crc_of(batch);
    put_field(batch, CRC_AT, crc.to_be_bytes());
}

#[test]
fn the_header_says_what_was_pushed() {
    let bytes = sample();
    let view = BatchView::parse(&bytes).unwrap();
    assert_eq!(view.total_bytes(), bytes.len());
    assert_eq!((view.base_offset(), view.last_offset(), view.count()), (Offset(40), Offset(42), 3));
    assert_eq!((view.base_timestamp(), view.max_timestamp()), (TimestampMs(900), TimestampMs(1_000)));
    assert_eq!((view.producer_id(), view.producer_epoch(), view.base_sequence(), view.leader_epoch()), (-1, -1, -1, 0));
    assert_eq!(view.compression(), Compression::None);
    assert!(view.is_dense() && !view.is_control() && !view.is_transactional() && !view.is_append_time());
}

#[test]
fn a_builder_serves_many_batches_and_an_empty_one_writes_nothing() {
    let record = Plain { timestamp: 5, key: None, value: Some(b"v".to_vec()), headers: Vec::new() };
    let (mut builder, mut out) = (BatchBuilder::new(), Vec::new());
    for base in 0..3 {
        builder.push(&record.body());
        let before = out.len();
        let announced = builder.len_bytes();
        builder.finish_into(Offset(base), &mut out);
        assert_eq!(out.len() - before, announced);
        assert!(builder.is_empty());
        builder.finish_into(Offset(base), &mut out);
    }
    let mut rest = out.as_slice();
    for base in 0..3 {
        let view = BatchView::parse(rest).unwrap();
        view.verify_crc().unwrap();
        assert_eq!((view.base_offset(), view.base_timestamp()), (Offset(base), TimestampMs(5)));
        assert_eq!(read(rest).unwrap(), std::slice::from_ref(&record));
        rest = &rest[view.total_bytes()..];
    }
    assert!(rest.is_empty());
}

#[test]
fn assigning_an_offset_leaves_the_checksum_valid() {
    let mut bytes = sample();
    assign(&mut bytes, Offset(i64::MAX - 7), 12).unwrap();
    let view = BatchView::parse(&bytes).unwrap();
    view.verify_crc().unwrap();
    assert_eq!((view.base_offset(), view.leader_epoch()), (Offset(i64::MAX - 7), 12));
    assert!(assign(&mut bytes[..60], Offset(0), 0).is_err());
}

#[test]
fn append_time_replaces_the_producers_stamps() {
    let bytes = with(sample(), ATTRIBUTES_AT, &APPEND_TIME_BIT.to_be_bytes());
    let stamps: Vec<i64> = read(&bytes).unwrap().iter().map(|record| record.timestamp).collect();
    assert_eq!(stamps, [1_000, 1_000, 1_000]);
}

#[test]
fn lies_in_the_header_are_refused_by_name() {
    let cases: [(usize, &[u8], &str); 11] = [
        (MAGIC_AT, &[1], "format 1"),
        (BATCH_LENGTH_AT, &(-1_i32).to_be_bytes(), "less than its header"),
        (BATCH_LENGTH_AT, &48_i32.to_be_bytes(), "less than its header"),
        (BATCH_LENGTH_AT, &i32::MAX.to_be_bytes(), "more than the bytes"),
        (ATTRIBUTES_AT, &5_i16.to_be_bytes(), "unknown compression"),
        (ATTRIBUTES_AT, &4_i16.to_be_bytes(), "Zstd compression is not supported"),
        (RECORD_COUNT_AT, &(-1_i32).to_be_bytes(), "negative"),
        (RECORD_COUNT_AT, &4_i32.to_be_bytes(), "more records than offsets"),
        (LAST_OFFSET_DELTA_AT, &(-1_i32).to_be_bytes(), "more records than offsets"),
        (LAST_OFFSET_DELTA_AT, &0_i32.to_be_bytes(), "more records than offsets"),
        (RECORD_COUNT_AT, &0_i32.to_be_bytes(), "no records"),
    ];
    for (at, bytes, expected) in cases {
        let said = refusal(&with(sample(), at, bytes));
        assert!(said.contains(expected), "field at {at} set to {bytes:?}: {said}");
    }
    let many = with(sample(), LAST_OFFSET_DELTA_AT, &i32::MAX.to_be_bytes());
    let said = refusal(&with(many, RECORD_COUNT_AT, &i32::MAX.to_be_bytes()));
    assert!(said.contains("more records than its bytes can hold"), "{said}");
    let empty = with(sample()[..HEADER_BYTES].to_vec(), BATCH_LENGTH_AT, &49_i32.to_be_bytes());
    let empty = with(empty, RECORD_COUNT_AT, &0_i32.to_be_bytes());
    assert_eq!(refusal(&empty), "accepted 0 records", "compaction may leave nothing but the place of a batch");
    assert!(refusal(&with(empty, LAST_OFFSET_DELTA_AT, &(-1_i32).to_be_bytes())).contains("more records than offsets"));
    assert!(refusal(&sample()[..60]).contains("shorter than its header"));
}

#[test]
fn lies_in_the_records_are_refused_by_name() {
    let one = |record: &[u8]| {
        let mut builder = BatchBuilder { count: 1, bytes: vec![0; HEADER_BYTES], ..BatchBuilder::new() };
        builder.bytes.extend_from_slice(record);
        let mut out = Vec::new();
        builder.finish_into(Offset(0), &mut out);
        refusal(&out)
    };
    // length, attributes, timestamp delta, offset delta, key length, value length, header count
    assert_eq!(one(&[12, 0, 0, 0, 1, 1, 0]), "accepted 1 records");
    let cases: [(&[u8], &str); 10] = [
        (&[14, 0, 0, 0, 1, 1, 0], "longer than the batch"),
        (&[1, 0, 0, 0, 1, 1, 0], "longer than the batch"),
        (&[10, 0, 0, 0, 1, 1, 0], "malformed"),
        (&[14, 0, 0, 0, 1, 1, 0, 0], "malformed"),
        (&[12, 0, 0, 0, 4, 1, 0], "malformed"),
        (&[12, 0, 0, 0, 3, 1, 0], "malformed"),
        (&[12, 0, 0, 0, 1, 1, 1], "malformed"),
        (&[20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f], "malformed"),
        (&[16, 0, 0, 0, 1, 1, 2, 2, 1], "malformed"),
        (&[12, 0, 0, 2, 1, 1, 0], "out of order"),
    ];
    for (record, expected) in cases {
        let said = one(record);
        assert!(said.contains(expected), "{record:?}: {said}");
    }
    assert!(one(&[12, 0, 0, 0, 1, 1, 0, 0]).contains("bytes follow"));
    let twice = {
        let mut builder = BatchBuilder { count: 2, bytes: vec![0; HEADER_BYTES], ..BatchBuilder::new() };
        builder.bytes.extend_from_slice(&[12, 0, 0, 0, 1, 1, 0].repeat(2));
        let mut out = Vec::new();
        builder.finish_into(Offset(0), &mut out);
        refusal(&out)
    };
    assert!(twice.contains("out of order"), "two records with one offset: {twice}");
    // A header name that is not UTF-8, then the same shape with a proper one.
    assert!(one(&[18, 0, 0, 0, 1, 1, 2, 2, 0xff, 1]).contains("malformed"));
    assert_eq!(one(&[18, 0, 0, 0, 1, 1, 2, 2, b'n', 1]), "accepted 1 records");
}

#[test]
fn varints_hold_every_width_and_refuse_overflow() {
    for value in [0, -1, 63, 64, -64, -65, 8191, 8192, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX, i64::MIN] {
        let mut out = Vec::new();
        varint::put(&mut out, value);
        assert_eq!(out.len(), varint::len(value), "{value}");
        assert_eq!(Input(&out).varlong(), Some(value));
        assert_eq!(Input(&out).varint(), i32::try_from(value).ok());
        assert_eq!(Input(&out[..out.len() - 1]).varlong(), None);
    }
    assert_eq!(Input(&[0xff; 11]).varlong(), None);
    assert_eq!(Input(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02]).varlong(), None);
    assert_eq!(Input(&[0x80, 0x00]).varlong(), Some(0));
}

#[test]
fn any_single_flipped_bit_is_noticed() {
    let bytes = sample();
    let unchecked = |at: usize| at < MAGIC_AT;
    for at in (0..bytes.len()).filter(|at| !unchecked(*at)) {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let noticed = BatchView::parse(&flipped).and_then(|view| view.verify_crc());
            assert!(noticed.is_err(), "bit {bit} of byte {at}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_built_is_read_back(records in vec(plain(), 1..20), base in 0..i64::MAX / 2) {
        let bytes = batch_of(&records, base);
        prop_assert_eq!(read(&bytes).unwrap(), records.clone());
        let deltas: Vec<i32> = BatchView::parse(&bytes).unwrap().records().unwrap().map(|r| r.unwrap().offset_delta).collect();
        prop_assert_eq!(deltas, (0..records.len() as i32).collect::<Vec<_>>());
    }

    #[test]
    fn any_two_timestamps_survive(first in any::<i64>(), second in any::<i64>()) {
        let at = |timestamp| Plain { timestamp, key: None, value: None, headers: Vec::new() };
        let records = [at(first), at(second)];
        prop_assert_eq!(read(&batch_of(&records, 0)).unwrap(), records);
    }

    #[test]
    fn another_implementation_reads_ours(records in vec(plain(), 1..20), base in 0..1_000_000_i64) {
        let mut bytes = Bytes::from(batch_of(&records, base));
        let set = theirs::RecordBatchDecoder::decode(&mut bytes).unwrap();
        prop_assert!(bytes.is_empty());
        prop_assert_eq!(set.records.iter().map(Plain::of_theirs).collect::<Vec<_>>(), records);
        prop_assert!(set.records.iter().enumerate().all(|(at, record)| record.offset == base + at as i64));
    }

    #[test]
    fn ours_reads_another_implementations(records in vec(plain(), 1..20), base in 0..1_000_000_i64) {
        let theirs: Vec<_> = records.iter().enumerate().map(|(at, record)| record.theirs(base + at as i64)).collect();
        let options = theirs::RecordEncodeOptions { version: 2, compression: theirs::Compression::None };
        let mut bytes = BytesMut::new();
        theirs::RecordBatchEncoder::encode(&mut bytes, &theirs, &options).unwrap();
        prop_assert_eq!(BatchView::parse(&bytes).unwrap().base_offset(), Offset(base));
        prop_assert_eq!(read(&bytes).unwrap(), records);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
        let _ = read_record(&bytes, TimestampMs(0)).map(|record| record.headers().count());
    }

    /// The checksum is made valid again, so the mutation reaches the record decoder.
    #[test]
    fn mutated_batches_never_panic_nor_yield_more_than_their_bytes(
        records in vec(plain(), 1..8),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = batch_of(&records, 0);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()).saturating_sub(bytes.len() / 2));
        if bytes.len() >= HEADER_BYTES {
            reseal(&mut bytes);
        }
        if let Ok(view) = BatchView::parse(&bytes) && let Ok(iter) = view.records() {
            prop_assert!(iter.size_hint().1.unwrap() <= bytes.len() / RECORD_BYTES_MIN);
            let held: usize = iter.flatten().map(|r| r.key.map_or(0, <[u8]>::len) + r.value.map_or(0, <[u8]>::len) + r.headers().len() * 2).sum();
            prop_assert!(held <= bytes.len());
        }
    }
}
