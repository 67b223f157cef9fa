//! containerd's own CRI plugin, called as the kubelet calls it; and names that only an engine's socket tells.

use std::{collections::HashMap, io, path::Path, process::Command};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec, LinuxContainerConfig,
    LinuxContainerResources, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopPodSandboxRequest, VersionRequest, runtime_service_client::RuntimeServiceClient,
};
use serde_json::{Value, json};
use tokio::{net::UnixStream, runtime::Runtime};
use tonic::transport::{Channel, Endpoint, Uri};

use super::{HOG, listed, live, one, oom_of, others::remove_pod};
use crate::support::{
    ctrace::{binary, run},
    engines::{containerd::Containerd, docker::Docker},
    wait_until,
};

const IMAGE: &str = "localhost/bb:1";
const UID: &str = "4c1e2d3f-1111-2222-3333-444455556666";

/// The kubelet's part.
struct Kubelet {
    client: RuntimeServiceClient<Channel>,
    runtime: Runtime,
    containerd: Containerd,
    pods: Vec<String>,
}

struct Pod {
    id: String,
    config: PodSandboxConfig,
}

impl Kubelet {
    fn start() -> Self {
        let containerd = Containerd::with_cri(IMAGE);
        containerd.import(IMAGE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let socket = containerd.socket().to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let channel = runtime.block_on(Endpoint::from_static("http://[::]").connect_with_connector(connect));
        let mut client = RuntimeServiceClient::new(channel.expect("a connection"));
        wait_until("the CRI plugin", || runtime.block_on(client.version(VersionRequest::default())).ok());
        Self { client, runtime, containerd, pods: Vec::new() }
    }

    fn pod(&mut self, namespace: &str, name: &str) -> Pod {
        // On the host's network: nothing of it is to be set up, nor any name of its own given.
        let options = NamespaceOption {
            network: NamespaceMode::Node.into(),
            pid: NamespaceMode::Container.into(),
            ..NamespaceOption::default()
        };
        let security =
            LinuxSandboxSecurityContext { namespace_options: Some(options), ..LinuxSandboxSecurityContext::default() };
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("{UID}-{name}"),
                namespace: namespace.to_owned(),
                attempt: 0,
            }),
            labels: labels(&[("io.kubernetes.pod.name", name), ("io.kubernetes.pod.namespace", namespace)]),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/burstable/pod{UID}"),
                security_context: Some(security),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let id = self.runtime.block_on(self.client.run_pod_sandbox(request)).expect("a pod").into_inner();
        self.pods.push(id.pod_sandbox_id.clone());
        Pod { id: id.pod_sandbox_id, config }
    }

    /// Starts a container of 24 MiB; gives its id.
    fn container(&mut self, pod: &Pod, name: &str) -> String {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.to_owned(), ..ImageSpec::default() }),
            command: ["/bin/sh", "-c", "while :; do sleep 1; done"].map(str::to_owned).into(),
            labels: labels(&[("io.kubernetes.container.name", name)]),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    memory_limit_in_bytes: 24 << 20,
                    ..LinuxContainerResources::default()
                }),
                ..LinuxContainerConfig::default()
            }),
            ..ContainerConfig::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let id = self.runtime.block_on(self.client.create_container(request)).expect("a container").into_inner();
        let request = StartContainerRequest { container_id: id.container_id.clone() };
        self.runtime.block_on(self.client.start_container(request)).expect("it starts");
        id.container_id
    }

    fn exec(&mut self, container_id: &str, command: &[&str]) {
        let cmd = command.iter().map(|word| (*word).to_owned()).collect();
        let request = ExecSyncRequest { container_id: container_id.to_owned(), cmd, timeout: 30 };
        let _ = self.runtime.block_on(self.client.exec_sync(request));
    }

    fn remove(&mut self, pod_sandbox_id: &str) {
        let stop = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.to_owned() };
        let _ = self.runtime.block_on(self.client.stop_pod_sandbox(stop));
        let remove = RemovePodSandboxRequest { pod_sandbox_id: pod_sandbox_id.to_owned() };
        let _ = self.runtime.block_on(self.client.remove_pod_sandbox(remove));
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        for pod in std::mem::take(&mut self.pods) {
            self.remove(&pod);
        }
        remove_pod(UID);
    }
}

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn a_pod() {
    let mut kubelet = Kubelet::start();
    let all = live("oom", &[]);
    let pod = kubelet.pod("prod", "shop-0");
    let app = kubelet.container(&pod, "app");
    let other = kubelet.pod("prod", "till-0");
    kubelet.container(&other, "app");
    for wanted in ["prod/shop-0/app", "shop-0/app", "prod/shop-0", &app[..12]] {
        let own = one(wanted);
        assert_eq!(own["id"], json!(app), "{wanted}");
        assert_eq!((&own["namespace"], &own["pod"], &own["name"]), (&json!("prod"), &json!("shop-0"), &json!("app")));
        assert_eq!((&own["runtime"], &own["image"]), (&json!("containerd"), &json!(IMAGE)));
        // What the plugin wrote down is enough: no socket was asked.
        assert!(own["name_source"].as_str().is_some_and(|source| source.ends_with("/config.json")), "{own}");
    }
    let ambiguous = super::containers(&["app"]);
    let said = ambiguous.err.join("\n");
    assert!(
        ambiguous.code == Some(1) && said.contains("prod/shop-0/app") && said.contains("prod/till-0/app"),
        "{said}"
    );
    let pause = one(&pod.id[..12]);
    assert_eq!((&pause["name"], &pause["pod"]), (&json!("pause"), &json!("shop-0")));
    let (shop, till) = (live("oom", &["--container", "shop-0"]), live("oom", &["--container", "till-0"]));
    kubelet.exec(&app, &HOG.map(|word| if word == "dd" { "/bin/dd" } else { word }));
    for ctrace in [&shop, &all] {
        let finding = oom_of(ctrace, "app");
        assert_eq!((&finding["container"]["pod"], &finding["container"]["id"]), (&json!("shop-0"), &json!(app)));
        assert_eq!(finding["evidence"]["limit_bytes"], 24 << 20, "{finding}");
    }
    let told = |line: &Value| line["code"] == "oom.container-limit" && line["evidence"]["before_attach"] != true;
    assert!(!till.stop().lines.iter().any(|line| told(&line.json)), "the other pod's twin saw it");
    // The pod goes while it is watched.
    kubelet.remove(&pod.id);
    wait_until("the pod to be gone", || {
        (!listed(&[]).iter().any(|line| line["type"] == "container" && line["pod"] == "shop-0")).then_some(())
    });
}

/// As in a container that has the engines' sockets, and none of the host's files.
fn without_files(hidden: &[&Path], options: &[&str]) -> Vec<Value> {
    let mut ctrace = Command::new("unshare");
    let covers: Vec<String> = hidden.iter().map(|dir| format!("mount -t tmpfs none '{}' && ", dir.display())).collect();
    ctrace.args(["--mount", "sh", "-c", &format!("{}exec \"$@\"", covers.concat()), "sh"]);
    ctrace.arg(binary()).args(["containers", "--json"]).args(options);
    let ended = run(ctrace);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.out.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub fn by_sockets_alone() {
    let docker = Docker::start();
    let id = docker.detached("web", &["--label", "team=shop"], &["sleep", "600"]);
    let hidden = ["data", "exec"].map(|name| docker.place.dir.join(name));
    let found = without_files(&hidden.each_ref().map(AsRef::as_ref), &[&id]);
    assert_eq!((&found[0]["name"], &found[0]["image"]), (&json!("web"), &json!("bb:1")), "{}", found[0]);
    let socket = docker.place.dir.join("docker.sock");
    assert_eq!(found[0]["name_source"], json!(format!("unix://{}", socket.display())));
    drop(docker);
    let mut kubelet = Kubelet::start();
    let pod = kubelet.pod("prod", "shop-0");
    let app = kubelet.container(&pod, "app");
    let hidden = ["state", "root"].map(|name| kubelet.containerd.place.dir.join(name));
    let hidden = hidden.each_ref().map(AsRef::as_ref);
    for (id, name) in [(&app, "app"), (&pod.id, "pause")] {
        let found = &without_files(&hidden, &[id])[0];
        assert_eq!(
            (&found["namespace"], &found["pod"], &found["name"]),
            (&json!("prod"), &json!("shop-0"), &json!(name))
        );
        assert_eq!(found["name_source"], json!(format!("unix://{}", kubelet.containerd.socket())));
    }
}
