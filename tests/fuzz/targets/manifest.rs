//! Any text is a study or is refused with reasons that can be shown.

#![no_main]

#[path = "../../../engine/core/tests/fake/mod.rs"]
mod fake;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(errors) = fake::read(text, &[]) {
        assert!(!errors.errors().is_empty());
        let mut shown = String::new();
        miette::NarratableReportHandler::new()
            .render_report(&mut shown, &errors)
            .expect("errors can be shown");
    }
});
