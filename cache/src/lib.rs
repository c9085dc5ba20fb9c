//! The memory of qpipe: digests and keys, a content store, action records.
//!
//! Content is named by its BLAKE3-256 digest ([`Digest`]); an action is named by the digest of a readable document of
//! everything that decides its result ([`KeyDoc`], [`ActionKey`]). A [`Store`] keeps both, and answers whether an
//! action was done ([`Store::lookup`]) with a hit, an absence, or a damage that says what is wrong, never with wrong
//! bytes. The commit protocol and its crash windows are proven case by case in [`commit`], the directory tree is
//! in [`layout`], the encoding of keys in [`key`].
//!
//! ```
//! use qpipe_cache::{ActionRecord, KeyDoc, Lookup, OutputRecord, RECORD_SCHEMA, Store};
//! # let dir = tempfile::tempdir()?;
//! # let root = dir.path();
//! let store = Store::open(root)?;
//! let input = store.put_bytes(b"weights")?;
//! let doc = KeyDoc::new("quantize", 1).param("scheme", "nf4").input("model", input);
//! let key = doc.key();
//! assert_eq!(store.lookup(&key), Lookup::Absent);
//!
//! let _single_flight = store.lock(&key)?;
//! let digest = store.put_bytes(b"codes")?;
//! let output = OutputRecord { kind: "weights".into(), digest, bytes: 5 };
//! let record = ActionRecord {
//!     schema: RECORD_SCHEMA,
//!     key,
//!     doc,
//!     outputs: [("model".into(), output)].into(),
//!     refs: [digest].into(),
//!     metrics: serde_json::Value::Null,
//!     started_unix_ms: 0,
//!     elapsed_ms: 3,
//!     tool: "example".into(),
//! };
//! store.commit(&record)?;
//! assert_eq!(store.lookup(&key), Lookup::Hit(Box::new(record)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
pub mod blob;
mod catalog;
pub mod commit;
pub mod digest;
mod digests;
pub mod error;
pub mod evict;
pub mod fault;
mod fs;
pub mod gc;
pub mod index;
pub mod key;
pub mod layout;
pub mod lease;
pub mod link;
pub mod list;
pub mod lock;
pub mod mapped;
mod marks;
pub mod materialise;
pub mod memory;
pub mod pin;
pub mod record;
mod sealed;
pub mod store;
#[cfg(test)]
mod testing;
pub mod ticket;
pub mod trash;
pub mod usage;
pub mod uses;
pub mod value;
pub mod verify;

pub use batch::Answer;
pub use blob::BlobWriter;
pub use commit::Lookup;
pub use digest::{Digest, DigestError, Pieces};
pub use error::{BlobFault, RecordFault, RecordFlaw, StoreError};
pub use evict::Why;
pub use gc::{DEFAULT_GRACE, Evicted, GcMode, GcOptions, GcReport, Kept};
pub use index::{Found, FoundOutput};
pub use key::{ActionKey, KEY_SCHEMA, KeyDoc};
pub use layout::STORE_VERSION;
pub use list::RecordInfo;
pub use lock::KeyLock;
pub use mapped::Mapped;
pub use materialise::{HardLinks, Materialised, Means};
pub use memory::NodeMemory;
pub use pin::Pin;
pub use record::{ActionRecord, OutputRecord, RECORD_SCHEMA};
pub use store::Store;
pub use ticket::Results;
pub use usage::{Tally, Usage};
pub use value::KeyValue;
pub use verify::{Repair, Report, VerifyFault};
