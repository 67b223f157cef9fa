//! Says before each line which machine it came from.

use std::io::{Result, Write};

pub struct Prefixed<W> {
    to: W,
    prefix: String,
    at_line_start: bool,
}

impl<W: Write> Prefixed<W> {
    /// An empty prefix passes everything on as it is.
    pub fn new(to: W, prefix: String) -> Self {
        Self { to, prefix, at_line_start: true }
    }
}

impl<W: Write> Write for Prefixed<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.at_line_start {
                self.to.write_all(self.prefix.as_bytes())?;
            }
            self.to.write_all(line)?;
            self.at_line_start = line.ends_with(b"\n");
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(prefix: &str, parts: &[&str]) -> String {
        let mut written = Vec::new();
        let mut prefixed = Prefixed::new(&mut written, prefix.to_owned());
        for part in parts {
            prefixed.write_all(part.as_bytes()).unwrap();
        }
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn each_line_once_however_it_is_cut() {
        let whole = "6.1| one\n6.1| \n6.1| three";
        assert_eq!(through("6.1| ", &["one\n\nthree"]), whole);
        assert_eq!(through("6.1| ", &["o", "ne", "\n", "\nth", "ree"]), whole);
        assert_eq!(through("", &["one\n\nthree"]), "one\n\nthree");
    }
}
