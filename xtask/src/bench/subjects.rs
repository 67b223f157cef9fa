//! What is measured against what: groups of tools that answer the same question, and the load that they watch.
//! A new lens is a new row; one that ctrace doesn't have yet is skipped.

use super::load::Kind;

/// Whose tool it is: goals are set against kinds of tools, not single ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    Ctrace,
    Libbpf,
    Bpftrace,
    Bcc,
    /// No tool at all: what the load does when nobody looks.
    Nobody,
}

pub struct Subject {
    pub name: &'static str,
    pub maker: Maker,
    /// The program and its arguments; `ctrace` stands for the one that was built.
    pub command: &'static [&'static str],
    /// What it is about. Only this is compared; ctrace may look at more, and its cost for that is shown too.
    pub watches: &'static [Kind],
    /// It writes a line about each event, and so a line that is missing is a loss.
    pub line_each: bool,
}

pub struct Group {
    pub name: &'static str,
    pub title: &'static str,
    /// In a virtual machine, where there are kprobes, but where nanoseconds mean nothing.
    pub in_guest: bool,
    pub loads: &'static [Kind],
    pub subjects: &'static [Subject],
}

const CTRACE_OOM: Subject = Subject {
    name: "ctrace oom",
    maker: Maker::Ctrace,
    command: &["ctrace", "oom", "--json"],
    watches: &[Kind::Kills, Kind::Exits, Kind::Signals],
    line_each: false,
};

const EXITSNOOP: Subject = Subject {
    name: "exitsnoop",
    maker: Maker::Libbpf,
    command: &["exitsnoop"],
    watches: &[Kind::Exits],
    line_each: true,
};

/// By container, device, direction and protocol, with times since the container's device; drops, retransmissions and refused
/// calls besides.
const CTRACE_NET: Subject = Subject {
    name: "ctrace net",
    maker: Maker::Ctrace,
    command: &["ctrace", "net", "--json"],
    watches: &[Kind::Packets, Kind::Floods, Kind::Tcp],
    line_each: false,
};

const BY_DEVICE: Subject = Subject {
    name: "bpftrace, by device",
    maker: Maker::Bpftrace,
    command: &[
        "bpftrace",
        "-e",
        r"tracepoint:net:net_dev_start_xmit { @sent[str(args->name)] = count(); }
        tracepoint:net:netif_receive_skb { @received[str(args->name)] = count(); }",
    ],
    watches: &[Kind::Floods, Kind::Tcp],
    line_each: false,
};

/// Beside whom the others slow the load down.
const NOBODY: Subject =
    Subject { name: "nobody", maker: Maker::Nobody, command: &["sleep", "1d"], watches: &[], line_each: false };

pub static GROUPS: &[Group] = &[
    Group {
        name: "oom",
        title: "OOM kills, on the machine itself (no kprobes)",
        in_guest: false,
        // ctrace oom also looks at every exit and signal, to tell what follows a kill: that has its price.
        loads: &[Kind::Kills, Kind::Exits, Kind::Signals],
        subjects: &[
            CTRACE_OOM,
            // oomkill needs kprobes; this shows the start, the memory and the cost of an exit of a tool of its kind.
            Subject { line_each: false, ..EXITSNOOP },
            Subject {
                name: "bpftrace, mark_victim",
                maker: Maker::Bpftrace,
                command: &["bpftrace", "-e", r#"tracepoint:oom:mark_victim { printf("%s %d\n", comm, args->pid); }"#],
                watches: &[Kind::Kills],
                line_each: false,
            },
        ],
    },
    Group {
        name: "oom-kprobes",
        title: "OOM kills, in a virtual machine with kprobes",
        in_guest: true,
        loads: &[Kind::Kills, Kind::Exits, Kind::Signals],
        subjects: &[
            CTRACE_OOM,
            Subject {
                name: "oomkill",
                maker: Maker::Libbpf,
                command: &["oomkill"],
                watches: &[Kind::Kills],
                line_each: false,
            },
            Subject {
                name: "oomkill.bt",
                maker: Maker::Bpftrace,
                command: &["bpftrace", "/usr/sbin/oomkill.bt"],
                watches: &[Kind::Kills],
                line_each: false,
            },
        ],
    },
    Group {
        name: "exits",
        title: "Exits",
        in_guest: false,
        loads: &[Kind::Exits],
        subjects: &[
            Subject {
                name: "ctrace exits",
                maker: Maker::Ctrace,
                command: &["ctrace", "exits", "--json"],
                watches: &[Kind::Exits],
                line_each: true,
            },
            EXITSNOOP,
            Subject {
                name: "bpftrace, one-liner",
                maker: Maker::Bpftrace,
                command: &[
                    "bpftrace",
                    "-e",
                    r#"tracepoint:sched:sched_process_exit { printf("%s %d %d\n", comm, pid, tid); }"#,
                ],
                watches: &[Kind::Exits],
                line_each: true,
            },
        ],
    },
    Group {
        name: "signals",
        title: "Signals",
        in_guest: false,
        loads: &[Kind::Signals],
        subjects: &[
            // It folds a flood into counts: no line for each.
            Subject {
                name: "ctrace signals",
                maker: Maker::Ctrace,
                command: &["ctrace", "signals", "--json"],
                watches: &[Kind::Signals],
                line_each: false,
            },
            Subject {
                name: "sigsnoop",
                maker: Maker::Libbpf,
                command: &["sigsnoop"],
                watches: &[Kind::Signals],
                line_each: true,
            },
            Subject {
                name: "bpftrace, one-liner",
                maker: Maker::Bpftrace,
                command: &[
                    "bpftrace",
                    "-e",
                    r#"tracepoint:signal:signal_generate { printf("%s %d %d %d\n", comm, pid, args->sig, args->pid); }"#,
                ],
                watches: &[Kind::Signals],
                line_each: true,
            },
        ],
    },
    Group {
        name: "cpu",
        title: "Wake-ups and switches between tasks",
        in_guest: false,
        loads: &[Kind::Wakeups],
        subjects: &[
            Subject {
                name: "ctrace cpu",
                maker: Maker::Ctrace,
                command: &["ctrace", "cpu", "--json"],
                watches: &[Kind::Wakeups],
                line_each: false,
            },
            Subject {
                name: "runqlat",
                maker: Maker::Libbpf,
                command: &["runqlat", "1"],
                watches: &[Kind::Wakeups],
                line_each: false,
            },
            Subject {
                name: "cpudist",
                maker: Maker::Libbpf,
                command: &["cpudist", "1"],
                watches: &[Kind::Wakeups],
                line_each: false,
            },
            NOBODY,
        ],
    },
    Group {
        name: "net",
        title: "Packets of a container, through a veth pair",
        in_guest: false,
        loads: &[Kind::Packets],
        subjects: &[
            CTRACE_NET,
            Subject {
                name: "bpftrace, by device",
                maker: Maker::Bpftrace,
                command: &[
                    "bpftrace",
                    "-e",
                    r"tracepoint:net:net_dev_start_xmit { @sent[str(args->name)] = count(); }
                    tracepoint:net:netif_receive_skb { @received[str(args->name)] = count(); }
                    tracepoint:skb:kfree_skb { @dropped[args->reason, args->location] = count(); }
                    interval:s:1 { print(@sent); print(@received); print(@dropped); }",
                ],
                watches: &[Kind::Packets],
                line_each: false,
            },
            NOBODY,
        ],
    },
    Group {
        name: "net-timed",
        title: "Packets of a container, by the time that they take",
        in_guest: false,
        loads: &[Kind::Floods],
        subjects: &[CTRACE_NET, BY_DEVICE, NOBODY],
    },
    Group {
        name: "net-tcp",
        title: "TCP of a container, without and with each tool",
        in_guest: false,
        loads: &[Kind::Tcp],
        subjects: &[
            CTRACE_NET,
            BY_DEVICE,
            Subject {
                name: "bpftrace, drops",
                maker: Maker::Bpftrace,
                command: &[
                    "bpftrace",
                    "-e",
                    "tracepoint:skb:kfree_skb { @dropped[args->reason, args->location] = count(); }",
                ],
                watches: &[Kind::Tcp],
                line_each: false,
            },
            // What tcpretrans.bt prints, from the tracepoint.
            Subject {
                name: "bpftrace, sent again",
                maker: Maker::Bpftrace,
                command: &[
                    "bpftrace",
                    "-e",
                    r#"tracepoint:tcp:tcp_retransmit_skb {
                        printf("%d %s:%d %s:%d %d\n", pid, ntop(args->saddr), args->sport, ntop(args->daddr), args->dport, args->state); }"#,
                ],
                watches: &[Kind::Tcp],
                line_each: false,
            },
            Subject {
                name: "tcpdrop.bt",
                maker: Maker::Bpftrace,
                command: &["bpftrace", "/usr/sbin/tcpdrop.bt"],
                watches: &[Kind::Tcp],
                line_each: false,
            },
            // The same without what needs the kernel's headers: its types by BTF, address families by number.
            Subject {
                name: "tcpdrop.bt, by BTF",
                maker: Maker::Bpftrace,
                command: &[
                    "sh",
                    "-c",
                    r#"exec bpftrace -e "$(sed '/^#ifndef/,/^#endif/d; s/AF_INET6/10/g; s/AF_INET/2/g' /usr/sbin/tcpdrop.bt)""#,
                ],
                watches: &[Kind::Tcp],
                line_each: false,
            },
            Subject {
                name: "tcpretrans.bt",
                maker: Maker::Bpftrace,
                command: &["bpftrace", "/usr/sbin/tcpretrans.bt"],
                watches: &[Kind::Tcp],
                line_each: false,
            },
            Subject {
                name: "tcpdrop (bcc)",
                maker: Maker::Bcc,
                command: &["tcpdrop-bpfcc"],
                watches: &[Kind::Tcp],
                line_each: false,
            },
            Subject {
                name: "tcpretrans (bcc)",
                maker: Maker::Bcc,
                command: &["tcpretrans-bpfcc"],
                watches: &[Kind::Tcp],
                line_each: false,
            },
            NOBODY,
        ],
    },
    Group {
        name: "caps",
        title: "Capability checks of a container",
        in_guest: false,
        loads: &[Kind::Checks],
        subjects: &[
            // By program, call, namespace and answer, with what became of refused calls.
            Subject {
                name: "ctrace caps",
                maker: Maker::Ctrace,
                command: &["ctrace", "caps", "--json", "--container", "ctbench"],
                watches: &[Kind::Checks],
                line_each: false,
            },
            Subject {
                name: "bpftrace, in a map",
                maker: Maker::Bpftrace,
                command: &["bpftrace", "-e", "tracepoint:capability:cap_capable { @[args->cap] = count(); }"],
                watches: &[Kind::Checks],
                line_each: false,
            },
            Subject {
                name: "bpftrace, printed",
                maker: Maker::Bpftrace,
                command: &[
                    "bpftrace",
                    "-e",
                    r#"tracepoint:capability:cap_capable { @[args->cap] = count(); printf("%s %d %d\n", comm, pid, args->cap); }"#,
                ],
                watches: &[Kind::Checks],
                line_each: false,
            },
            NOBODY,
        ],
    },
    Group {
        name: "io",
        title: "Requests to a disk",
        in_guest: false,
        loads: &[Kind::Requests],
        subjects: &[
            // It sums per container, device and direction, and watches every refused call and paused writer besides.
            Subject {
                name: "ctrace io",
                maker: Maker::Ctrace,
                command: &["ctrace", "io", "--json"],
                watches: &[Kind::Requests],
                line_each: false,
            },
            Subject {
                name: "biolatency",
                maker: Maker::Libbpf,
                command: &["biolatency", "-D", "1"],
                watches: &[Kind::Requests],
                line_each: false,
            },
            Subject {
                name: "bpftrace, by device",
                maker: Maker::Bpftrace,
                command: &[
                    "bpftrace",
                    "-e",
                    r"tracepoint:block:block_rq_issue { @start[args->dev, args->sector] = nsecs; }
                    tracepoint:block:block_rq_complete /@start[args->dev, args->sector]/ {
                        @us[args->dev] = hist((nsecs - @start[args->dev, args->sector]) / 1000);
                        delete(@start[args->dev, args->sector]); }
                    interval:s:1 { print(@us); }",
                ],
                watches: &[Kind::Requests],
                line_each: false,
            },
        ],
    },
];

pub fn by_name(name: &str) -> Option<&'static Group> {
    GROUPS.iter().find(|group| group.name == name)
}

/// The lens of a ctrace command, where `ctrace --help` doesn't list it.
pub fn missing_lens(subject: &Subject, help: &str) -> Option<&'static str> {
    let lens = match subject.command {
        ["ctrace", lens, ..] => *lens,
        _ => return None,
    };
    let listed = help.lines().any(|line| line.starts_with("  ") && line.split_whitespace().next() == Some(lens));
    (!listed).then_some(lens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lens_is_missing_where_help_does_not_list_it() {
        let help = "Which container\n\nCommands:\n  oom      OOM kills\n  doctor   What\n\nexits are not it\n";
        let (oom, exits) = (by_name("oom").unwrap(), by_name("exits").unwrap());
        assert_eq!(missing_lens(&oom.subjects[0], help), None);
        assert_eq!(missing_lens(&exits.subjects[0], help), Some("exits"));
        assert_eq!(missing_lens(&exits.subjects[1], help), None);
    }

    #[test]
    fn names_tell_groups_and_subjects_apart() {
        for (number, group) in GROUPS.iter().enumerate() {
            assert!(GROUPS[..number].iter().all(|other| other.name != group.name));
            for (number, subject) in group.subjects.iter().enumerate() {
                assert!(group.subjects[..number].iter().all(|other| other.name != subject.name));
            }
            assert_eq!(group.subjects[0].maker, Maker::Ctrace, "ratios are of the first row");
        }
    }
}
