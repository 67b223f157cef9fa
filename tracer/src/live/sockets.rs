//! Names from engines' sockets, where no file gave one: the second source, and only in a build with the feature
//! `sockets`. An answer is believed like a file's: if its process is in this very cgroup.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use bollard::{API_DEFAULT_VERSION, Docker};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    ContainerFilter, ContainerStatusRequest, ListContainersRequest, ListPodSandboxRequest, PodSandboxFilter,
    PodSandboxStatusRequest, runtime_service_client::RuntimeServiceClient,
};
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};

use crate::{
    containers::{
        Engines, Facts, Files, Hierarchy, HostFiles, is_generated, is_within,
        sockets::{Socket, Speaks, Told, of_user},
    },
    model::{Container, Runtime},
};

/// An engine that has not answered by then is busy, or hangs: ctrace must not.
const PATIENCE: Duration = Duration::from_millis(500);
/// Such a one is not asked again for this long.
const SILENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Sockets {
    silent_until: HashMap<String, Instant>,
}

impl Sockets {
    /// Adds to the facts what engines say, if their files had no name.
    pub fn complete(
        &mut self,
        facts: &mut Facts,
        files: &HostFiles,
        engines: &Engines,
        hierarchy: &Hierarchy,
        container: &Container,
    ) {
        if facts.name.is_some() || !is_generated(&container.id) || !container.ancestors.is_empty() {
            return;
        }
        for socket in engines.sockets.iter().filter(|socket| may_know(socket, container)) {
            if self.silent_until.get(&socket.path).is_some_and(|until| Instant::now() < *until) {
                continue;
            }
            match ask(files.reachable(&socket.path), socket.speaks, container.id.clone()) {
                Ok(None) => {}
                Ok(Some(told)) if is_there(files, hierarchy, container, &told) => {
                    return facts.hear(told, format!("unix://{}", socket.path));
                }
                Ok(Some(_)) => facts.notes.push(format!(
                    "not believed: unix://{} speaks of a process that is not in {}",
                    socket.path, container.cgroup
                )),
                Err(error) => {
                    facts.notes.push(format!("unix://{}: {error}", socket.path));
                    self.silent_until.insert(socket.path.clone(), Instant::now() + SILENCE);
                }
            }
        }
    }
}

fn may_know(socket: &Socket, container: &Container) -> bool {
    let speaks = match container.runtime {
        Some(Runtime::Docker) => socket.speaks == Speaks::Docker,
        Some(Runtime::Containerd | Runtime::CriO) => socket.speaks == Speaks::Cri,
        None => true,
        Some(_) => false,
    };
    speaks && of_user(&container.cgroup, socket.uid)
}

fn is_there(files: &HostFiles, hierarchy: &Hierarchy, container: &Container, told: &Told) -> bool {
    let cgroup = files.read(&format!("/proc/{}/cgroup", told.pid)).ok();
    let cgroup = cgroup.map(|content| String::from_utf8_lossy(&content.bytes).into_owned());
    cgroup.and_then(|text| Some(is_within(hierarchy.path_of(&text)?, &container.cgroup))).unwrap_or(false)
}

/// Asks from a thread of its own: whoever wants to know works in a runtime that must not be entered twice.
fn ask(path: PathBuf, speaks: Speaks, id: String) -> Result<Option<Told>, String> {
    let question = async move {
        let answer = async {
            match speaks {
                Speaks::Docker => docker(path, &id).await,
                Speaks::Cri => cri(path, &id).await,
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err("it does not answer".to_owned()))
    };
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(question)
    };
    let thread = thread::Builder::new().name("socket".to_owned()).spawn(work).map_err(|error| error.to_string())?;
    thread.join().unwrap_or_else(|_| Err("the question failed".to_owned()))
}

async fn docker(path: PathBuf, id: &str) -> Result<Option<Told>, String> {
    let path = path.to_string_lossy();
    let docker = Docker::connect_with_unix(&path, PATIENCE.as_secs().max(1), API_DEFAULT_VERSION)
        .map_err(|error| error.to_string())?;
    let docker = docker.negotiate_version().await.map_err(|error| error.to_string())?;
    let container = match docker.inspect_container(id, None).await {
        Ok(container) => container,
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let config = container.config.unwrap_or_default();
    Ok(Some(Told {
        pid: container.state.and_then(|state| state.pid).unwrap_or_default(),
        name: container.name.map(|name| name.trim_start_matches('/').to_owned()),
        runtime: Runtime::Docker,
        image: config.image,
        pod: None,
        namespace: None,
        labels: config.labels.unwrap_or_default(),
        sandbox: false,
    }))
}

async fn cri(path: PathBuf, id: &str) -> Result<Option<Told>, String> {
    let said = |status: tonic::Status| status.to_string();
    let connect = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    let endpoint = Endpoint::from_static("http://[::]");
    let channel = endpoint.connect_with_connector(connect).await.map_err(|error| error.to_string())?;
    let mut client = RuntimeServiceClient::new(channel);
    let filter = ContainerFilter { id: id.to_owned(), ..ContainerFilter::default() };
    let listed = client.list_containers(ListContainersRequest { filter: Some(filter) }).await;
    let listed = match listed {
        // containerd without its CRI plugin.
        Err(status) if status.code() == tonic::Code::Unimplemented => return Ok(None),
        listed => listed.map_err(said)?.into_inner(),
    };
    let container = listed.containers.into_iter().next();
    let sandbox = container.as_ref().map_or(id, |container| container.pod_sandbox_id.as_str()).to_owned();
    let filter = PodSandboxFilter { id: sandbox.clone(), ..PodSandboxFilter::default() };
    let pods = client.list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) }).await.map_err(said)?;
    let pod = pods.into_inner().items.into_iter().next();
    if container.is_none() && pod.is_none() {
        return Ok(None);
    }
    let (pod, pod_labels) = pod.map_or((None, HashMap::new()), |pod| (pod.metadata, pod.labels));
    let (pod, namespace) = pod.map(|metadata| (metadata.name, metadata.namespace)).unzip();
    let mut told = Told {
        pid: 0,
        name: None,
        runtime: Runtime::Containerd,
        image: None,
        pod,
        namespace,
        labels: pod_labels,
        sandbox: container.is_none(),
    };
    let info = match container {
        None => {
            let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox, verbose: true };
            client.pod_sandbox_status(request).await.map_err(said)?.into_inner().info
        }
        Some(container) => {
            told.name = container.metadata.map(|metadata| metadata.name);
            told.image = container.image.map(|image| image.image);
            told.labels = container.labels;
            let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
            client.container_status(request).await.map_err(said)?.into_inner().info
        }
    };
    told.pid = pid_of(&info);
    Ok(Some(told))
}

/// Both containerd and CRI-O put it into the JSON of the verbose answer; 0, which is nobody's, where they don't.
fn pid_of(info: &HashMap<String, String>) -> i64 {
    let info = info.get("info").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    info.and_then(|info| info.get("pid")?.as_i64()).unwrap_or_default()
}
