//! Generated texts: kept, shown, and resumed prompt by prompt.

use std::fs;

use serde_json::Value;

use crate::program::{Counts, Project};

const TEXTS: &str = r#"
qpipe 1 name=texts
load base {
    from embedded=tiny
}
generate texts {
    model base
    prompt "It is warm. Ben walks to the garden." "It rains. Mia takes the red ball."
    max-tokens 12
    decoding sample temperature=0.8 top-k=50 top-p=0.95 seed=7
}
"#;

#[test]
fn texts_are_shown_and_kept_with_their_tokens() {
    let project = Project::new(TEXTS);
    project.ok(&["run", "study.kdl"]);
    assert_eq!(project.counts(), Counts { ran: 2, cached: 0 });
    let run = project.last_run();
    let kept: Value = serde_json::from_slice(&fs::read(run.join("samples.json")).unwrap()).unwrap();
    let samples = kept["nodes"][0]["samples"].as_array().unwrap().clone();
    assert_eq!(samples.len(), 2);
    let shown = project.ok(&["runs", "show", "latest"]);
    let page = fs::read_to_string(run.join("table.md")).unwrap();
    for sample in &samples {
        assert!(!sample["tokens"].as_array().unwrap().is_empty());
        let prompt = sample["prompt"].as_str().unwrap();
        assert!(shown.contains(prompt) && page.contains(prompt), "{shown}\n{page}");
        let text = sample["text"].as_str().unwrap().trim();
        assert!(text.lines().all(|line| shown.contains(line)), "{text}\n{shown}");
    }
    let fresh = Project::new(TEXTS);
    fresh.ok(&["run", "study.kdl"]);
    let again: Value =
        serde_json::from_slice(&fs::read(fresh.last_run().join("samples.json")).unwrap()).unwrap();
    assert_eq!(again, kept, "the seed makes draws repeatable");
}

#[test]
fn a_further_prompt_costs_only_itself() {
    let project = Project::new(TEXTS);
    project.ok(&["run", "study.kdl"]);
    project.edit(
        "\"It rains. Mia takes the red ball.\"",
        "\"It rains. Mia takes the red ball.\" \"Tom sees Ann.\"",
    );
    project.ok(&["run", "study.kdl"]);
    let events = Project::events(&project.last_run());
    let units = |cached: &str| {
        let is = |e: &&Value| e.to_string().contains("\"unit\"") && e.to_string().contains(cached);
        events.iter().filter(is).count()
    };
    assert_eq!((units("\"cached\":true"), units("\"cached\":false")), (2, 1));
}

#[test]
fn prompts_may_stand_in_a_file() {
    let project = Project::new(TEXTS);
    project.edit(
        "prompt \"It is warm. Ben walks to the garden.\" \"It rains. Mia takes the red ball.\"",
        "prompts \"prompts.jsonl\" limit=1",
    );
    fs::write(project.path("prompts.jsonl"), "{\"prompt\":\"It is warm.\"}\n{\"prompt\":\"It rains.\"}\n")
        .unwrap();
    project.ok(&["run", "study.kdl"]);
    let shown = project.ok(&["runs", "show", "latest"]);
    assert!(shown.contains("It is warm. →") && !shown.contains("It rains. →"), "{shown}");
    fs::write(project.path("prompts.jsonl"), "{\"text\":\"It is warm.\"}\n").unwrap();
    let refused = project.qpipe(&["run", "study.kdl"]);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("`prompts`, row 1: missing field `prompt`"), "{message}");
}
