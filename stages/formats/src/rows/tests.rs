use serde_json::json;

use super::*;

fn refused(bytes: &[u8]) -> String {
    read("data.jsonl", bytes).unwrap_err().to_string()
}

#[test]
fn lines_are_rows_in_their_order() {
    let text = "{\"b\":1,\"a\":\"é\"}\r\n\n   \n{\"a\":null,\"c\":[1,{\"d\":2.5}]}";
    let rows = read("data.jsonl", text.as_bytes()).unwrap();
    let values: Vec<Value> = rows.into_iter().map(Value::Object).collect();
    assert_eq!(values, [json!({"b": 1, "a": "é"}), json!({"a": null, "c": [1, {"d": 2.5}]})]);
    assert!(read("data.jsonl", b"").unwrap().is_empty());
}

#[test]
fn errors_name_the_file_and_the_line() {
    let text = refused(b"{\"a\":1}\n\n{\"a\":}\n");
    assert_eq!(text, "`data.jsonl`, line 3: expected value at column 6");
    assert_eq!(refused(b"[1,2]"), "`data.jsonl`, line 1: expected a JSON object");
    assert_eq!(refused(b"{\"a\":1}\n\xff\n"), "`data.jsonl`, line 2: it is not utf-8");
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    assert!(refused(deep.as_bytes()).contains("recursion limit"));
}

#[test]
fn rows_before_an_error_can_be_had_and_none_after_it() {
    let mut rows = rows("data.jsonl", b"{\"a\":1}\nx\n{\"a\":2}").unwrap();
    assert!(rows.next().unwrap().is_ok());
    assert!(rows.next().unwrap().is_err());
    assert!(rows.next().is_none());
}
