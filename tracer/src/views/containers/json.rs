//! One container as a line of JSON.

use serde_json::{Map, Value, json};

use crate::{
    containers::inspect::{Inspected, capability_names},
    model::{Timestamp, Unknown},
    views::json::VERSION,
};

/// One container as a line of JSON (without its newline): the container's own keys, and those of `ctrace containers`.
pub fn json(inspected: &Inspected, now: Timestamp) -> String {
    let mut line = Map::new();
    line.insert("v".to_owned(), json!(VERSION));
    line.insert("type".to_owned(), json!("container"));
    line.insert("time".to_owned(), json!(now));
    if let Ok(Value::Object(container)) = serde_json::to_value(&*inspected.container) {
        line.extend(container.into_iter().filter(|(key, _)| key != "unknown"));
    }
    let Inspected { facts, capabilities, spec_capabilities, .. } = inspected;
    let set = |value: u64| json!(capability_names(value));
    let difference = capabilities.zip(*spec_capabilities).map(|(own, spec)| {
        let sets = own.against(&spec).map(|(name, difference)| {
            let both = json!({"beyond_spec": set(difference.beyond_spec), "below_spec": set(difference.below_spec)});
            (name.to_owned(), both)
        });
        Value::Object(sets.into_iter().collect())
    });
    let own = [
        ("image", json!(facts.image)),
        ("labels", json!(facts.labels)),
        ("started", json!(inspected.started)),
        ("stop_signal", json!(facts.stop_signal)),
        ("sandbox", json!(facts.sandbox)),
        ("name_source", json!(facts.name_source)),
        ("init_pid", json!(inspected.init_pid)),
        ("main_pid", json!(inspected.main_pid)),
        ("processes", json!(inspected.processes)),
        ("root_processes", json!(inspected.root_processes)),
        ("limits", json!(inspected.limits)),
        ("user", json!(inspected.user)),
        ("userns", json!(inspected.userns)),
        ("capabilities", json!(capabilities.map(|sets| capability_names(sets.effective)))),
        ("capability_sets", json!(capabilities.map(|sets| sets.json()))),
        ("capabilities_spec", json!(spec_capabilities.map(|sets| sets.json()))),
        ("capabilities_difference", json!(difference)),
        ("no_new_privs", json!(inspected.no_new_privs)),
        ("seccomp", json!(inspected.seccomp)),
        ("privileged", json!(inspected.privileged)),
        ("network_mode", json!(inspected.network_mode)),
        ("network_devices", json!(inspected.network_devices)),
        ("network", json!(inspected.network)),
        ("rootfs_readonly", json!(inspected.rootfs_readonly)),
        ("notes", json!(inspected.notes)),
    ];
    line.extend(own.into_iter().map(|(key, value)| (key.to_owned(), value)));
    let unknown: &Unknown = &inspected.unknown;
    if !unknown.is_empty() {
        line.insert("unknown".to_owned(), json!(unknown));
    }
    Value::Object(line).to_string()
}
