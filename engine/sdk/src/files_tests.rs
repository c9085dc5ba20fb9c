use std::os::unix::fs::symlink;

use super::*;

fn lab() -> (tempfile::TempDir, Store, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let work = dir.path().join("work");
    fs::create_dir_all(work.join("out/deep")).unwrap();
    fs::write(work.join("out/a"), "alpha").unwrap();
    fs::write(work.join("out/deep/tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(work.join("out/deep/tool"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(work.join("t.tsv"), "1\t2\n").unwrap();
    (dir, store, work)
}

#[test]
fn outputs_come_back_as_they_were() {
    let (dir, store, work) = lab();
    let files = Files::collect(&store, &work, [("table", "./t.tsv"), ("tree", "out")]).unwrap();
    let artifact = files.commit(&store).unwrap();
    assert_eq!(artifact.refs.len(), 4);
    let back = Files::read(&store, &artifact.digest).unwrap();
    assert_eq!(back, files);
    let to = dir.path().join("back");
    back.place(&store, &to).unwrap();
    assert_eq!(fs::read_to_string(to.join("table")).unwrap(), "1\t2\n");
    assert_eq!(fs::read_to_string(to.join("tree/a")).unwrap(), "alpha");
    let mode = |path: &str| fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("tree/deep/tool"), mode("table")), (0o755, 0o644));
    let again = Files::collect(&store, &to, [("table", "table"), ("tree", "tree")]).unwrap();
    assert_eq!(again.commit(&store).unwrap().digest, artifact.digest, "places and times are not content");
}

#[test]
fn a_private_copy_does_not_reach_the_store() {
    let (dir, store, work) = lab();
    let (digest, _) = store_file(&store, &work.join("t.tsv")).unwrap();
    let to = dir.path().join("copy");
    place_blob(&store, &digest, &to, false).unwrap();
    fs::write(&to, "changed").unwrap();
    assert_eq!(store.read(&digest).unwrap(), b"1\t2\n");
}

#[test]
fn what_is_no_output_is_refused_by_name() {
    let (_dir, store, work) = lab();
    symlink("/etc/hostname", work.join("leak")).unwrap();
    symlink("t.tsv", work.join("alias")).unwrap();
    symlink("a", work.join("out/link")).unwrap();
    let error = |path: &str| Files::collect(&store, &work, [("x", path)]).unwrap_err();
    assert!(matches!(error("nowhere"), FilesError::Missing { .. }));
    for path in ["../work/t.tsv", "/etc/hostname", "leak", ".", ""] {
        assert!(matches!(error(path), FilesError::Outside { .. }), "{path}: {}", error(path));
    }
    assert!(matches!(error("out"), FilesError::Special { .. }), "a folder's links are not followed");
    assert!(Files::collect(&store, &work, [("x", "alias")]).is_ok(), "an output may be a link within");
}

#[test]
fn a_document_that_leads_out_is_not_read() {
    let (_dir, store, _) = lab();
    let of = |text: &str| Files::read(&store, &store.put_bytes(text.as_bytes()).unwrap()).unwrap_err();
    let entry = format!(r#"{{"file":{{"digest":"{}","bytes":1}}}}"#, Digest::of_bytes(b"x"));
    let evil = of(&format!(r#"{{"format":"qpipe-files","version":1,"outputs":{{"../x":{entry}}}}}"#));
    assert!(matches!(evil, FilesError::Document { .. }), "{evil}");
    let newer = of(r#"{"format":"qpipe-files","version":2,"outputs":[]}"#);
    assert!(matches!(newer, FilesError::Newer { found: 2, .. }), "{newer}");
    assert!(matches!(of("{}"), FilesError::Document { .. }));
}
