//! What is recorded of a live run: from its start, or from the key `w` on.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::Value;

use super::{Options, host::Host, say};
use crate::{
    findings::HostFacts,
    kernel::host as machine,
    model::{Timestamp, size},
    pipeline::{Answer, Note, Record},
    recording::{Header, Recorder, VERSION, Wish},
    run::{Entry, Run, view::View},
};

/// What `w` and `--record` write at the most.
pub const BESIDE_BYTES: u64 = 1_000_000_000;
/// What `w` writes to the directory for temporary files: that may be memory.
const TEMPORARY_BYTES: u64 = 100_000_000;

/// What each recording of this run begins with.
pub struct Opening {
    lenses: Vec<String>,
    asked: crate::run::filter::Asked,
    facts: HostFacts,
    ready: Note,
}

impl Opening {
    pub fn new(options: &Options, facts: HostFacts, ready: Note) -> Self {
        let lenses = options.lenses.iter().map(|lens| lens.name.to_owned()).collect();
        Self { lenses, asked: options.asked.clone(), facts, ready }
    }

    /// The header, and the note that was said before anything else could be.
    /// `began_later`: than the kernel side, which had counted by then.
    pub fn write(
        &self,
        recorder: &mut Recorder,
        known: crate::containers::Known,
        boot_to_wall_ns: i64,
        began_later: bool,
    ) {
        let map = |key: &str| self.ready.fields.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        let now_ns = machine::boottime_ns();
        let started = Timestamp((now_ns as i64).saturating_add(boot_to_wall_ns));
        recorder.begin(&Header {
            ctrace_recording: VERSION,
            ctrace: env!("CARGO_PKG_VERSION").to_owned(),
            host: machine::name(),
            kernel: machine::release(),
            started,
            started_ns: now_ns,
            boot_to_wall_ns,
            lenses: self.lenses.clone(),
            asked: self.asked.clone(),
            facts: HostFacts { began_later, ..self.facts.clone() },
            probes: map("probes"),
            probes_unknown: map("unknown"),
            known: known.into_iter().collect(),
        });
        recorder.enter(&Entry::Said(self.ready.clone()), now_ns);
        recorder.enter(&Entry::Shown, now_ns);
    }
}

/// Ends the recording that is on, or begins one with a survey of its own, so that it can be read without what came
/// before. Gives what to tell the user.
pub fn toggle(run: &mut Run, host: &mut Host, opening: &Opening, boot_to_wall_ns: i64) -> String {
    if let Some(mut recorder) = run.recorder.take() {
        return match recorder.end() {
            Ok(()) => recorder.summary(),
            Err(error) => format!("{error:#}"),
        };
    }
    let mut recorder = match create() {
        Ok(recorder) => recorder,
        Err(error) => return format!("{error:#}"),
    };
    opening.write(&mut recorder, host.known(), boot_to_wall_ns, true);
    let now_ns = machine::boottime_ns();
    recorder.enter(&Entry::Record(Record::Cgroups(host.cgroups())), now_ns);
    for entry in run.pipeline.containers.containers() {
        let Some(facts) = entry.facts else { continue };
        let answer = Answer::Facts(entry.cgroup_id, Box::new(facts.clone()));
        recorder.enter(&Entry::Record(Record::Answer(answer)), now_ns);
    }
    recorder.enter(&Entry::Surveyed, now_ns);
    let text = format!("recording to {}; w ends it", recorder.path().display());
    run.recorder = Some(recorder);
    text
}

/// In the current directory; where ctrace may not write any more without its privileges, in the one for temporary files.
fn create() -> Result<Recorder> {
    let name = jiff::Timestamp::now()
        .to_zoned_datetime(jiff::tz::TimeZone::system())
        .strftime("ctrace-%Y%m%d-%H%M%S.ctrace")
        .to_string();
    let wish = |path: PathBuf, max_bytes| Wish { path, force: false, max_bytes };
    let here = std::path::absolute(&name).unwrap_or_else(|_| PathBuf::from(&name));
    let refused = |error: &anyhow::Error| {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(kind, Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem))
    };
    match Recorder::create(&wish(here, BESIDE_BYTES)) {
        Err(error) if refused(&error) => Recorder::create(&wish(Path::new("/tmp").join(&name), TEMPORARY_BYTES)),
        created => created,
    }
}

/// Brings the recording so far into its file. Whether the run goes on: nobody waits for one that only records.
///
/// # Errors
/// It does not arrive there, and the recording is all there is of the run.
pub fn keep(run: &mut Run) -> Result<bool> {
    let Some(recorder) = &mut run.recorder else {
        if let Some(tui) = run.view.tui() {
            tui.recording(None);
        }
        return Ok(true);
    };
    let mut kept = recorder.flush();
    let full = recorder.is_full();
    if full {
        kept = kept.and(recorder.end());
    }
    let path = recorder.path().display().to_string();
    let alone = matches!(run.view, View::Nothing);
    match kept {
        Err(error) if alone => return Err(error),
        // Who watches goes on watching: a disk may be full because of what is looked for.
        Err(error) => {
            run.recorder = None;
            let text = format!("the recording ends: {error:#}");
            if let Some(tui) = run.view.tui() {
                tui.notice(text);
            } else {
                say(run, "doubt", text)?;
            }
        }
        Ok(()) if full && alone => return Ok(false),
        Ok(()) if full => {
            run.recorder = None;
            say(run, "doubt", format!("the recording {path} has reached its size, and ends here"))?;
        }
        Ok(()) => {}
    }
    let state = run.recorder.as_ref().map(|recorder| format!("rec {}", size(recorder.written_bytes())));
    if let Some(tui) = run.view.tui() {
        tui.recording(state);
    }
    Ok(true)
}
