//! comm, names, paths and labels come from containers and are hostile: nothing of theirs reaches a terminal raw.

use std::borrow::Cow;

/// Makes control characters, bidirectional overrides and invisible characters visible. Borrows where nothing needs it.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            '\n' => safe.push_str("\\n"),
            '\t' => safe.push_str("\\t"),
            '\r' => safe.push_str("\\r"),
            _ if is_unsafe(char) && u32::from(char) < 0x100 => safe.push_str(&format!("\\x{:02x}", u32::from(char))),
            _ if is_unsafe(char) => safe.push_str(&format!("\\u{{{:x}}}", u32::from(char))),
            _ => safe.push(char),
        }
    }
    Cow::Owned(safe)
}

/// As one word of a line that is pasted into a shell.
pub fn word(text: &str) -> Cow<'_, str> {
    let safe = escape(text);
    let inert = |char: char| char.is_ascii_alphanumeric() || "-_./:@%+=,".contains(char);
    if !safe.is_empty() && safe.chars().all(inert) {
        safe
    } else {
        Cow::Owned(format!("'{}'", safe.replace('\'', r"'\''")))
    }
}

fn is_unsafe(char: char) -> bool {
    char.is_control()
        || matches!(u32::from(char),
            0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0xe0000..=0xe007f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hostile_gets_through_and_the_rest_stays() {
        assert_eq!(escape("java"), "java");
        assert!(matches!(escape("naïve 日本"), Cow::Borrowed(_)));
        assert_eq!(escape("a\x1b[31mb"), "a\\x1b[31mb");
        assert_eq!(escape("a\nb\tc\r"), "a\\nb\\tc\\r");
        assert_eq!(escape("\u{9b}31m"), "\\x9b31m");
        assert_eq!(escape("\u{202e}gpj"), "\\u{202e}gpj");
        assert_eq!(escape("\0"), "\\x00");
    }

    #[test]
    fn a_name_is_one_word_for_a_shell() {
        assert_eq!(word("shop/web-1"), "shop/web-1");
        assert_eq!(word("x; reboot $(id)"), "'x; reboot $(id)'");
        assert_eq!(word("a'b"), r"'a'\''b'");
        assert_eq!(word("a\x1bb"), r"'a\x1bb'");
        assert_eq!(word(""), "''");
    }
}
