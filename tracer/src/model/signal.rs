//! Signals by name.

/// Names of the signals 1 to 31 on Linux (x86 and arm: include/uapi/asm-generic/signal.h).
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];
/// The first real-time signal as the kernel numbers them is 32; glibc keeps two for itself.
const RTMIN: u32 = 34;
const RTMAX: u32 = 64;

/// `SIGTERM`, `SIGRTMIN+3`.
pub fn signal_name(signal: u32) -> String {
    match signal {
        1..=31 => NAMES[signal as usize - 1].to_owned(),
        RTMIN => "SIGRTMIN".to_owned(),
        35..=RTMAX => format!("SIGRTMIN+{}", signal - RTMIN),
        other => format!("signal {other}"),
    }
}

/// From `SIGTERM`, `term`, `15`, `RTMIN+3`, `SIGRTMAX-1`.
pub fn signal_number(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|known| &known[3..] == name) {
        return Some(at as u32 + 1);
    }
    match name {
        "CLD" => return Some(17),
        "POLL" => return Some(29),
        "IOT" => return Some(6),
        _ => {}
    }
    let number = match name.split_once(['+', '-']) {
        None if name == "RTMIN" => RTMIN,
        None if name == "RTMAX" => RTMAX,
        Some(("RTMIN", rest)) if name.contains('+') => RTMIN.checked_add(rest.parse().ok()?)?,
        Some(("RTMAX", rest)) if name.contains('-') => RTMAX.checked_sub(rest.parse().ok()?)?,
        _ => return None,
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// Every name that `signal_number` takes, for an error's text.
pub fn signal_names() -> String {
    let mut names = NAMES.map(|name| &name[3..]).join(" ");
    names.push_str(" RTMIN+N RTMAX-N");
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_each_others() {
        for number in (1..=31).chain(34..=64) {
            assert_eq!(signal_number(&signal_name(number)), Some(number), "{}", signal_name(number));
        }
        assert_eq!(signal_number("term"), Some(15));
        assert_eq!(signal_number("rtmin+3"), Some(37));
        assert_eq!(signal_number("SIGRTMAX-1"), Some(63));
        for wrong in ["", "SIG", "SIGFOO", "0", "65", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMIN+x", "-1"] {
            assert_eq!(signal_number(wrong), None, "{wrong}");
        }
    }
}
