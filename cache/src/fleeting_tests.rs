//! A store that goes away with its process does what a store does, with few files and folders.

use super::*;
use crate::testing::{committed, record};
use crate::{Answer, BlobFault, Lookup};

#[test]
fn a_fleeting_store_makes_folders_as_they_are_needed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("deep/er");
    let names = |path: &str| {
        let paths = layout::list(&root.join(path)).unwrap().into_iter();
        let mut names: Vec<String> =
            paths.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
        names.sort();
        names
    };
    let store = Store::open_fleeting(&root).unwrap();
    assert_eq!((names(""), names("v1")), (vec!["v1".to_owned()], vec!["staging".to_owned()]));
    let none = record("none", &[]).key;
    assert!(matches!(store.lookup(&none), Lookup::Absent));
    assert!(matches!(store.contains(none.digest()), Err(BlobFault::Missing { .. })));
    drop(store.lock(&none).unwrap());
    let made = committed(&store, "made", b"made");
    assert!(matches!(store.lookup(&made.key), Lookup::Hit(_)));
    let answers = store.lookup_many(&[made.key, none]);
    assert!(matches!(answers[..], [Answer::Hit(_), Answer::Absent]));
    assert_eq!(store.read(made.refs.first().unwrap()).unwrap(), b"made");
    drop(store);
    assert_eq!(names("v1"), ["actions", "blobs", "locks", "staging"], "no leases, no index");
    assert!(names("v1/staging").is_empty());
}
