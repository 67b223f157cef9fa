//! Text that fits: widths are those that a terminal gives the characters.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// `text`, cut to `width` columns; what is cut ends in `…`.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 0;
    for char in text.chars() {
        let wide = char.width().unwrap_or(0);
        if used + wide + 1 > width {
            break;
        }
        used += wide;
        cut.push(char);
    }
    if width > 0 {
        cut.push('…');
    }
    cut
}

/// `text`, cut in the middle: of `namespace/pod/name` both ends tell what it is.
pub(super) fn fit_middle(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut tail = Vec::new();
    let mut used = 0;
    for char in text.chars().rev() {
        let wide = char.width().unwrap_or(0);
        if used + wide > width / 2 {
            break;
        }
        used += wide;
        tail.push(char);
    }
    let mut cut = fit(text, width - used);
    cut.extend(tail.into_iter().rev());
    cut
}

/// `text` in lines of at most `width` columns, broken at spaces; a word that is longer at its slashes, else anywhere.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(2); // a wide character must fit
    let mut lines = Lines { done: Vec::new(), line: String::new(), used: 0, width };
    for word in text.split(' ') {
        let gap = usize::from(lines.used > 0);
        if lines.used + gap + word.width() <= width {
            lines.push(if gap == 1 { " " } else { "" });
            lines.push(word);
        } else if word.width() <= width {
            lines.end();
            lines.push(word);
        } else {
            // A path's first slash belongs to the name behind it.
            let (first, rest) = word.split_at(word.find(|char| char != '/').unwrap_or(0));
            let mut lead = first;
            for (index, piece) in rest.split_inclusive('/').enumerate() {
                let piece = format!("{}{piece}", std::mem::take(&mut lead));
                let gap = usize::from(index == 0 && lines.used > 0);
                if lines.used > 0 && lines.used + gap + piece.width() > width {
                    lines.end();
                } else if gap == 1 {
                    lines.push(" ");
                }
                piece.chars().for_each(|char| lines.push_char(char));
            }
        }
    }
    if lines.used > 0 || lines.done.is_empty() {
        lines.end();
    }
    lines.done
}

struct Lines {
    done: Vec<String>,
    line: String,
    used: usize,
    width: usize,
}

impl Lines {
    fn push(&mut self, text: &str) {
        self.line.push_str(text);
        self.used += text.width();
    }

    fn push_char(&mut self, char: char) {
        let wide = char.width().unwrap_or(0);
        if self.used + wide > self.width {
            self.end();
        }
        self.line.push(char);
        self.used += wide;
    }

    fn end(&mut self) {
        self.done.push(std::mem::take(&mut self.line));
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_count_as_two() {
        assert_eq!(fit("日本語", 6), "日本語");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(fit("abc", 0), "");
        assert_eq!(fit_middle("payments/ledger/sidecar", 13), "paymen…idecar");
        assert_eq!(fit_middle("日本語日本語", 7), "日本…語");
        assert_eq!(wrap("日本語", 4), ["日本", "語"]);
    }

    #[test]
    fn lines_break_at_spaces_and_long_words_anywhere() {
        assert_eq!(wrap("raise the limit above 560 MiB", 12), ["raise the", "limit above", "560 MiB"]);
        assert_eq!(wrap("of /kubepods.slice/pod/x", 16), ["of ", "/kubepods.slice/", "pod/x"].map(str::trim_end));
        assert_eq!(wrap("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("", 10), [""]);
    }
}
