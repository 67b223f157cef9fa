//! How things look: 16 colours, none where they aren't wanted, and never colour alone.

use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier, Style},
};

use crate::model::Severity;

/// Styles by meaning. Made once.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    color: bool,
    unicode: bool,
}

impl Theme {
    pub fn new(color: bool, unicode: bool) -> Self {
        Self { color, unicode }
    }

    pub fn severity(self, severity: Severity) -> Style {
        match severity {
            Severity::Critical => self.fore(Color::Red).add_modifier(Modifier::BOLD),
            Severity::Warning => self.fore(Color::Yellow),
            Severity::Info => Style::new(),
        }
    }

    /// What the eye should find first.
    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What is read only when looked for: labels, units, rules.
    pub fn quiet(self) -> Style {
        // Not the colour "bright black": some palettes make that the background.
        Style::new().add_modifier(Modifier::DIM)
    }

    pub fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub fn key(self) -> Style {
        self.fore(Color::Cyan)
    }

    fn fore(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    /// The last thing done to a frame. A terminal that isn't UTF-8 takes bytes of UTF-8 for controls (0x9b starts an
    /// escape sequence in Latin-1), so there everything becomes ASCII, whoever it comes from.
    pub fn settle(self, buffer: &mut Buffer) {
        if self.unicode {
            return;
        }
        for cell in &mut buffer.content {
            if !cell.symbol().is_ascii() {
                let plain = cell.symbol().chars().next().map_or(' ', plain);
                cell.set_char(plain);
            }
        }
    }
}

/// Severity by symbol, for whoever sees no colours.
pub fn symbol(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "●",
        Severity::Warning => "○",
        Severity::Info => "·",
    }
}

fn plain(char: char) -> char {
    match char {
        '●' => '*',
        '○' => 'o',
        '·' | '░' => '.',
        '─' | '–' => '-',
        '│' | '▏' => '|',
        '╭' | '╮' | '╰' | '╯' | '┌' | '┐' | '└' | '┘' | '├' | '┤' | '┬' | '┴' => '+',
        '█' => '#',
        '▌' | '▒' => '=',
        '▾' | '↓' => 'v',
        '▴' | '↑' => '^',
        '→' | '►' => '>',
        '✗' => 'x',
        '←' => '<',
        '…' => '~',
        'µ' => 'u',
        _ => '?',
    }
}

/// Does the terminal show UTF-8? By the locale, as every program decides it; the Linux console has no glyphs for most.
pub fn is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    if variable("TERM").is_some_and(|term| term == "linux") {
        return false;
    }
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_decides_in_the_order_of_posix() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            is_utf8(move |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
        };
        assert!(of(&[("LANG", "en_GB.UTF-8")]));
        assert!(of(&[("LC_ALL", ""), ("LANG", "C.utf8")]));
        assert!(!of(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]));
        assert!(!of(&[]));
        assert!(!of(&[("LANG", "en_GB.UTF-8"), ("TERM", "linux")]));
    }
}
