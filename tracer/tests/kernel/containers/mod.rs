//! Attribution and `ctrace containers`, with real engines.

#[cfg(feature = "sockets")]
mod cri;
mod docker;
mod hostile;
mod inside;
mod others;
mod stopped;
mod stress;
mod systemd;

use std::fs;

use serde_json::Value;

use crate::{
    harness::{Lack, List, Test},
    support::ctrace::{Ctrace, Ended, command, run},
};

pub static TESTS: &[Test] = &[
    Test::full("containers::docker_by_the_name_a_person_gave", docker::by_the_name_a_person_gave)
        .needs(&[Lack::Docker]),
    Test::full("containers::docker_rights_and_limits", docker::rights_and_limits).needs(&[Lack::Docker]),
    Test::full("containers::docker_where_its_flag_is_wrong", docker::where_its_flag_is_wrong).needs(&[Lack::Docker]),
    Test::full("containers::ctr_and_kubernetes", others::ctr_and_kubernetes).needs(&[Lack::Containerd]),
    Test::full("containers::podman_where_its_flag_is_wrong", others::podman_where_its_flag_is_wrong)
        .needs(&[Lack::Podman]),
    Test::full("containers::stopped_by_docker", stopped::by_docker).needs(&[Lack::Docker]),
    Test::full("containers::stopped_by_podman", stopped::by_podman).needs(&[Lack::Podman]),
    Test::full("containers::bare_runc", others::bare_runc).needs(&[Lack::Runc]),
    Test::full("containers::bare_crun", others::bare_crun).needs(&[Lack::Crun, Lack::CgroupV2]),
    Test::full("containers::nested", others::nested).needs(&[Lack::Runc]),
    Test::full("containers::lxc", others::lxc).needs(&[Lack::Lxc]),
    Test::full("containers::moved_in_later", others::moved_in_later),
    Test::full("containers::waits_for_one", others::waits_for_one).needs(&[Lack::Runc]),
    Test::full("containers::nothing_is_held", others::nothing_is_held).needs(&[Lack::Runc]),
    Test::full("containers::hostile_names", hostile::names).needs(&[Lack::Containerd]),
    Test::full("containers::a_fake_runtime_directory", hostile::a_fake_runtime_directory).needs(&[Lack::Runc]),
    Test::full("containers::ctrace_in_a_container", inside::ctrace_in_a_container).needs(&[Lack::Runc, Lack::OpenInit]),
    Test::full("containers::short_lives_by_runc", stress::short_lives_by_runc).needs(&[Lack::Runc]),
    Test::full("containers::short_lives_by_engines", stress::short_lives_by_engines)
        .needs(&[Lack::Docker, Lack::Containerd]),
    Test::full("containers::cgroups_that_come_and_go", stress::cgroups_that_come_and_go),
    Test::full("containers::five_thousand_idle_cgroups", stress::five_thousand_idle_cgroups),
    #[cfg(feature = "sockets")]
    Test::of(List::Cri, "containers::a_pod_of_the_cri_plugin", cri::a_pod).needs(&[Lack::Containerd]),
    #[cfg(feature = "sockets")]
    Test::of(List::Cri, "containers::names_by_sockets_alone", cri::by_sockets_alone)
        .needs(&[Lack::Docker, Lack::Containerd]),
    Test::of(List::Systemd, "containers::docker_s_scopes", systemd::docker_s_scopes),
    Test::of(List::Systemd, "containers::podman_s_scopes", systemd::podman_s_scopes),
    Test::of(List::Systemd, "containers::a_user_s_own_podman", systemd::a_user_s_own_podman),
    Test::of(List::Systemd, "containers::a_service", systemd::a_service),
    Test::of(List::Systemd, "containers::a_machine_of_nspawn", systemd::a_machine_of_nspawn),
];

/// Takes 100 MB at once.
const HOG: [&str; 5] = ["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"];

fn live(lens: &str, options: &[&str]) -> Ctrace {
    let mut arguments = vec![lens, "--json"];
    arguments.extend(options);
    Ctrace::ready(command(&arguments))
}

/// `ctrace containers …` to its end.
fn containers(options: &[&str]) -> Ended {
    let mut arguments = vec!["containers"];
    arguments.extend(options);
    run(command(&arguments))
}

/// The lines of `ctrace containers --json …`.
fn listed(options: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["--json"];
    arguments.extend(options);
    let ended = containers(&arguments);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.out.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The one line that `ctrace containers --json X` has of a container.
fn one(wanted: &str) -> Value {
    let lines = listed(&[wanted]);
    let mut found = lines.into_iter().filter(|line| line["type"] == "container");
    let first = found.next().expect("a container");
    assert!(found.next().is_none(), "more than one {wanted}");
    first
}

/// Codes of the findings about a container.
fn codes(lines: &[Value], name: &str) -> Vec<String> {
    let of = |line: &&Value| line["type"] == "finding" && line["container"]["name"] == name;
    lines.iter().filter(of).filter_map(|line| line["code"].as_str().map(str::to_owned)).collect()
}

fn oom_of(ctrace: &Ctrace, name: &str) -> Value {
    let is_it = |line: &Value| line["code"] == "oom.container-limit" && line["container"]["name"] == name;
    ctrace.wait_for(&format!("an OOM kill in {name}"), |line| is_it(&line.json)).json
}

/// What a process has open.
fn open_files(pid: i32) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    fds.flatten().filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned())).collect()
}
