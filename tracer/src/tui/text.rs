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

/// `text` in lines of at most `width` columns, broken at spaces where there are any; a longer word is cut in pieces.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(2); // a wide character must fit
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let gap = usize::from(!line.is_empty());
        if line.width() + gap + word.width() <= width {
            if gap == 1 {
                line.push(' ');
            }
            line.push_str(word);
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for char in word.chars() {
            if line.width() + char.width().unwrap_or(0) > width {
                lines.push(std::mem::take(&mut line));
            }
            line.push(char);
        }
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
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
        assert_eq!(wrap("日本語", 4), ["日本", "語"]);
    }

    #[test]
    fn lines_break_at_spaces_and_long_words_anywhere() {
        assert_eq!(wrap("raise the limit above 560 MiB", 12), ["raise the", "limit above", "560 MiB"]);
        assert_eq!(wrap("/kubepods.slice/pod", 8), ["/kubepod", "s.slice/", "pod"]);
        assert_eq!(wrap("", 10), [""]);
    }
}
