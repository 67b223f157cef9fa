//! Kernel addresses to function names, from /proc/kallsyms: 5 MB of text that is streamed once for a batch of addresses
//! and never kept.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
};

/// Further behind a symbol than this, an address is not within it.
const LONGEST_FUNCTION: u64 = 1 << 20;

/// Why addresses have no names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error(
        "/proc/kallsyms shows no addresses to this process (sysctl kernel.kptr_restrict, or CAP_SYSLOG is missing)"
    )]
    Hidden,
    #[error("/proc/kallsyms: {0}")]
    Unreadable(String),
}

/// The kernel's symbol table. What it shows depends on the privileges with which it was opened, not on those of later:
/// open it before they are dropped.
#[derive(Debug)]
pub struct Symbols {
    file: Result<File, Unresolved>,
}

impl Symbols {
    pub fn open() -> Self {
        Self { file: File::open("/proc/kallsyms").map_err(|error| Unresolved::Unreadable(error.to_string())) }
    }

    /// The function that each address is in, with its module (`nft_do_chain [nf_tables]`); `None` where it is in none.
    ///
    /// # Errors
    /// The table cannot be read, or shows zeros for addresses.
    pub fn names(&self, addresses: &[u64]) -> Result<Vec<Option<String>>, Unresolved> {
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let mut file = self.file.as_ref().map_err(Clone::clone)?;
        file.seek(SeekFrom::Start(0)).map_err(|error| Unresolved::Unreadable(error.to_string()))?;
        resolve(BufReader::with_capacity(1 << 16, file), addresses)
    }
}

/// The same, from any text of that form. The lines need no order: modules follow the kernel, BPF follows modules.
pub fn resolve(mut lines: impl BufRead, addresses: &[u64]) -> Result<Vec<Option<String>>, Unresolved> {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    // For each gap between two addresses the highest symbol in it.
    let mut gaps: Vec<Option<(u64, String)>> = vec![None; sorted.len()];
    let mut hidden = true;
    let mut line = Vec::with_capacity(256);
    while read(&mut lines, &mut line)? {
        let Some((start, kind, name)) = parse(&line) else { continue };
        hidden &= start == 0;
        let gap = sorted.partition_point(|address| *address < start);
        if !matches!(kind, b't' | b'T' | b'w' | b'W') || start == 0 {
            continue;
        }
        if let Some(highest) = gaps.get_mut(gap)
            && highest.as_ref().is_none_or(|(highest, _)| *highest < start)
        {
            *highest = Some((start, String::from_utf8_lossy(name).replace('\t', " ")));
        }
    }
    if hidden {
        return Err(Unresolved::Hidden);
    }
    for gap in 1..gaps.len() {
        if gaps[gap].is_none() {
            let (below, own) = gaps.split_at_mut(gap);
            own[0].clone_from(&below[gap - 1]);
        }
    }
    Ok(addresses
        .iter()
        .map(|address| {
            let gap = sorted.binary_search(address).ok()?;
            let (start, name) = gaps[gap].as_ref()?;
            (address - start < LONGEST_FUNCTION).then(|| name.clone())
        })
        .collect())
}

fn read(lines: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, Unresolved> {
    line.clear();
    match lines.read_until(b'\n', line) {
        Ok(bytes) => Ok(bytes > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(Unresolved::Unreadable(error.to_string())),
    }
}

/// `ffffffff81000000 T _text`, and behind a tab its module.
fn parse(line: &[u8]) -> Option<(u64, u8, &[u8])> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let blank = line.iter().position(|byte| *byte == b' ')?;
    let start = u64::from_str_radix(std::str::from_utf8(&line[..blank]).ok()?, 16).ok()?;
    let kind = *line.get(blank + 1)?;
    Some((start, kind, line.get(blank + 3..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "ffffffff81000000 T _text\nffffffff81000100 t first\nffffffff81000180 d data\n\
        ffffffff81000200 T second\nffffffffc0000100 t helper\t[mod]\nffffffffc0000000 t init\t[mod]\nffffffff81000300 W weak\n";

    fn names(addresses: &[u64]) -> Vec<String> {
        let found = resolve(TABLE.as_bytes(), addresses).expect("a table");
        found.into_iter().map(Option::unwrap_or_default).collect()
    }

    #[test]
    fn the_function_below_each_address_whatever_the_order() {
        assert_eq!(
            names(&[0xffff_ffff_c000_0010, 0xffff_ffff_8100_01ff, 0xffff_ffff_8100_0200, 0xffff_ffff_8100_0310]),
            ["init [mod]", "first", "second", "weak"]
        );
        assert_eq!(names(&[0xffff_ffff_c000_0105, 0xffff_ffff_c000_0106]), ["helper [mod]", "helper [mod]"]);
        assert_eq!(names(&[0x40_0000, 0xffff_ffff_9000_0000]), ["", ""], "user space, and far behind the last");
        assert_eq!(resolve(TABLE.as_bytes(), &[]), Ok(Vec::new()));
    }

    #[test]
    fn zeros_are_no_addresses() {
        let table = "0000000000000000 T _text\n0000000000000000 t first\n";
        assert_eq!(resolve(table.as_bytes(), &[5]), Err(Unresolved::Hidden));
        assert_eq!(resolve(&b""[..], &[5]), Err(Unresolved::Hidden));
    }

    #[test]
    fn this_kernels_own() {
        let own = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let own = own.lines().find(|line| line.ends_with(" T cap_capable") || line.ends_with(" t cap_capable"));
        let Some(address) = own.and_then(|line| u64::from_str_radix(line.split(' ').next()?, 16).ok()) else { return };
        if address != 0 {
            let names = Symbols::open().names(&[address + 1, address + 1]).expect("readable a moment ago");
            assert_eq!(names, [Some("cap_capable".to_owned()), Some("cap_capable".to_owned())]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in any::<Vec<u8>>(), addresses in any::<Vec<u64>>()) {
            if let Ok(names) = resolve(&bytes[..], &addresses) {
                prop_assert_eq!(names.len(), addresses.len());
            }
        }
    }
}
