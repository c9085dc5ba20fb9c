use proptest::prelude::*;

use crate::rows::{Row, read};

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/data/rows/", $name))
    };
}

const SNAPPY: &[u8] = data!("v1_snappy.parquet");
const ZSTD: &[u8] = data!("v2_zstd.parquet");

fn expected() -> Vec<Row> {
    read("rows.jsonl", data!("rows.jsonl")).unwrap()
}

#[test]
fn rows_equal_those_of_pyarrow() {
    let expected = expected();
    assert_eq!(expected.len(), 80);
    for (name, bytes) in [("snappy", SNAPPY), ("zstd", ZSTD), ("plain", data!("v1_plain.parquet"))] {
        let rows = read(name, bytes).unwrap();
        assert_eq!(rows.len(), expected.len(), "{name}");
        for (row, expected) in rows.iter().zip(&expected) {
            assert_eq!(row, expected, "{name}");
        }
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let cases: [(&[u8], [&str; 2]); 4] = [
        (data!("gzip.parquet"), ["`text`", "compression 2"]),
        (data!("delta.parquet"), ["`text`", "encoding 7"]),
        (data!("decimal.parquet"), ["`when`", "decimal"]),
        (data!("map.parquet"), ["`map`", "map"]),
    ];
    for (bytes, words) in cases {
        let error = read("data.parquet", bytes).unwrap_err().to_string();
        assert!(error.starts_with("`data.parquet`: parquet: "), "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    for file in [SNAPPY, ZSTD] {
        for length in 4..file.len() {
            assert!(read("data.parquet", &file[..length]).is_err(), "{length}");
        }
    }
}

#[test]
fn a_footer_that_lies_about_its_length_is_refused() {
    for length in [u32::MAX, 1 << 20, 0] {
        let mut file = SNAPPY.to_vec();
        let at = file.len() - 8;
        file[at..at + 4].copy_from_slice(&length.to_le_bytes());
        assert!(read("data.parquet", &file).is_err());
    }
}

proptest! {
    #[test]
    fn mutated_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), zstd: bool) {
        let mut file = if zstd { ZSTD } else { SNAPPY }.to_vec();
        for (place, byte) in &edits {
            let at = place.index(file.len());
            file[at] = *byte;
        }
        read("data.parquet", &file).ok();
    }
}
