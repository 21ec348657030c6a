//! A record batch as a client may send it: read whole, and what was read written again reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onelog_fuzz::{ALWAYS_BYTES, Counting, capped};
use onelog_storage::batch::{BatchBuilder, BatchView};
use onelog_storage::types::Offset;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fuzz_target!(|bytes: &[u8]| {
    capped(bytes.len(), 4, ALWAYS_BYTES, || {
        let Ok(batch) = BatchView::parse(bytes) else { return };
        assert!(batch.total_bytes() <= bytes.len());
        let _ = batch.verify_crc();
        let Ok(records) = batch.records() else { return };
        let mut again = BatchBuilder::new();
        let mut count = 0;
        for record in records {
            let Ok(record) = record else { return };
            let headers: Vec<_> = record.headers().collect();
            again.push_record(record.timestamp, record.key, record.value, headers.iter().copied());
            count += 1;
        }
        if count == 0 {
            return;
        }
        let mut written = Vec::new();
        again.finish_into(Offset(7), &mut written);
        let read = BatchView::parse(&written).expect("what the builder writes is a batch");
        read.verify_crc().expect("with its checksum");
        let (first, second) = (batch.records().expect("read before"), read.records().expect("just written"));
        for (one, other) in first.zip(second) {
            let (one, other) = (one.expect("read before"), other.expect("just written"));
            assert_eq!((one.timestamp, one.key, one.value), (other.timestamp, other.key, other.value));
            assert!(one.headers().eq(other.headers()));
        }
    });
});
