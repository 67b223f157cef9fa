//! The line in which the filter is typed: the list follows each letter.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{App, Effect};

/// Longer is no filter but a paste gone wrong.
const LONGEST: usize = 100;

impl App {
    /// What a key does to the filter; `None`: it is no text, and means what it always does.
    pub(super) fn typed(&mut self, event: KeyEvent) -> Option<Effect> {
        let control = event.modifiers.contains(KeyModifiers::CONTROL);
        let alt = event.modifiers.contains(KeyModifiers::ALT);
        match event.code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace if self.filter.is_empty() => self.typing = false,
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char('u') if control => self.filter.clear(),
            KeyCode::Char('w') if control => {
                let kept = self.filter.trim_end().rfind(' ').map_or(0, |space| space + 1);
                self.filter.truncate(kept);
            }
            KeyCode::Char('c' | 'z') if control => return None,
            KeyCode::Char(char) if !control && !alt && self.filter.chars().count() < LONGEST => self.filter.push(char),
            KeyCode::Up | KeyCode::Down | KeyCode::PageUp | KeyCode::PageDown => return None,
            _ => {}
        }
        Some(Effect::None)
    }
}
