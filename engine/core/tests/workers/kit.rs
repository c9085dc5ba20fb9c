//! The Python kit's units, over both transports.

use qpipe_engine::worker::{Limits, PluginCommand, Transport};
use qpipe_sdk::StageEvent;

use crate::hows::hows;
use crate::lab::Lab;

#[test]
fn a_plugin_on_the_kit_goes_on_where_it_was() {
    for transport in [Transport::Stdio, Transport::Files] {
        let Some(lab) = Lab::new("a_plugin_on_the_kit_goes_on_where_it_was") else { return };
        let registry = || {
            let command = lab.command("layers", "layers.py", &[], Limits::default());
            lab.start(&PluginCommand { transport, ..command }).unwrap()
        };
        lab.file("stop", "2");
        let (result, _) = lab.run(&registry(), "layers a {\n seed 1\n}");
        assert_eq!(hows(&result.nodes), "F", "{result:?}");
        std::fs::remove_file(lab.dir.join("stop")).unwrap();
        let (result, events) = lab.run(&registry(), "layers a {\n seed 1\n}");
        assert_eq!(hows(&result.nodes), "r", "{transport:?}: {result:?}");
        let units = events.iter().filter_map(|event| match event {
            StageEvent::Unit { cached, .. } => Some(*cached),
            _ => None,
        });
        assert_eq!(units.collect::<Vec<_>>(), [true, true, false, false], "{transport:?}");
        let record = result.nodes[0].record().unwrap();
        assert_eq!(record.refs.len(), 2, "the layers are one blob");
    }
}
