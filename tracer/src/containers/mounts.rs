//! Lines of /proc/PID/mountinfo.

/// A line, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub device: (u32, u32),
    /// The part of the file system that is mounted.
    pub root: String,
    pub at: String,
    pub kind: String,
    /// The file system's own.
    pub options: String,
}

impl Mount {
    pub fn of(line: &str) -> Option<Self> {
        // 32 31 0:29 ROOT MOUNT OPTIONS [FIELDS…] - TYPE SOURCE SUPER-OPTIONS
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(2);
        let (major, minor) = left.next()?.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let (root, at) = (unescape(left.next()?), unescape(left.next()?));
        let mut right = right.splitn(3, ' ');
        let (kind, _source, options) = (right.next()?, right.next()?, right.next()?);
        Some(Self { device, root, at, kind: kind.to_owned(), options: options.to_owned() })
    }
}

/// mountinfo's `\040`, as mount options have it too.
pub fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let octal = after.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok());
        out.push(octal.map_or('\\', char::from));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    out + rest
}
