//! What is recorded of a live run: from its start, or by the key `w`, from as early as is still held.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use serde_json::{Map, Value};

use super::{Options, say};
use crate::{
    findings::HostFacts,
    kernel::host as machine,
    model::{Finding, Timestamp, size},
    pipeline::{Note, Record},
    recording::{Header, Recorder, Since, VERSION, Wish},
    run::{Entry, Run, view::View},
};

/// What `w` and `--record` write at the most.
pub const BESIDE_BYTES: u64 = 1_000_000_000;
/// What `w` writes to the directory for temporary files: that may be memory.
const TEMPORARY_BYTES: u64 = 100_000_000;
/// Before the ids of findings that are older than the recording.
const EARLIER: &str = "earlier-";

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

    /// The header, and what was said before anything else could be. `since`: where the recording begins; `gone`: entries
    /// from before that.
    pub fn write(&self, recorder: &mut Recorder, since: &Since, gone: u64) {
        let map = |key: &str| self.ready.fields.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        let started = Timestamp((since.at_ns as i64).saturating_add(since.boot_to_wall_ns));
        recorder.begin(&Header {
            ctrace_recording: VERSION,
            ctrace: env!("CARGO_PKG_VERSION").to_owned(),
            host: machine::name(),
            kernel: machine::release(),
            started,
            started_ns: since.at_ns,
            boot_to_wall_ns: since.boot_to_wall_ns,
            lenses: self.lenses.clone(),
            asked: self.asked.clone(),
            // Where the kernel side had counted before, the first readings tell of no growth.
            facts: HostFacts { began_later: !since.first, ..self.facts.clone() },
            probes: map("probes"),
            probes_unknown: map("unknown"),
            known: since.known.clone(),
            gone,
        });
        recorder.enter(&Entry::Said(self.ready.clone()), since.at_ns);
        if gone > 0 {
            let text = format!("this recording begins here: {gone} entries from before were held no longer");
            recorder.enter(&Entry::Said(Note { time: started, code: "gone", text, fields: Map::new() }), since.at_ns);
        }
        recorder.enter(&Entry::Shown, since.at_ns);
    }
}

/// Ends the recording that is on, or begins one with what is kept of the time before. Gives what to tell the user.
pub fn toggle(run: &mut Run, opening: &Opening) -> String {
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
    let now_ns = machine::boottime_ns();
    // Only where the last entry could not be kept there is none to begin with.
    if run.kept.as_ref().is_some_and(|kept| kept.since().is_none()) {
        run.keep(now_ns);
    }
    let (Some(kept), Some(tui)) = (&mut run.kept, run.view.tui()) else {
        recorder.discard();
        return "nothing is kept to begin a recording with".to_owned();
    };
    let Some(since) = kept.since().cloned() else {
        recorder.discard();
        return "what is here is too much for a recording".to_owned();
    };
    opening.write(&mut recorder, &since, kept.gone());
    // Of the time before the run the first part tells itself.
    let earlier = tui.told_before(since.told).filter(|_| !since.first);
    kept.write(&mut recorder, earlier.map(|finding| Entry::Record(Record::Before(Box::new(self::earlier(finding))))));
    let before = Duration::from_secs(now_ns.saturating_sub(since.at_ns) / 1_000_000_000);
    let text = format!(
        "recording to {}, from {} ago on; w ends it",
        recorder.path().display(),
        humantime::format_duration(before)
    );
    run.recorder = Some(recorder);
    text
}

/// A finding of which the recording has no more than that it was told. Its number is one that a replay may give again.
fn earlier(finding: &Finding) -> Finding {
    let mut finding = finding.clone();
    finding.id.insert_str(0, EARLIER);
    if let Some(other) = &mut finding.refers_to {
        other.insert_str(0, EARLIER);
    }
    finding
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
